BEGIN IMMEDIATE;

-- A watched directory. Its mounts and held_model_at distinguish an absent tree from an empty one:
-- syncd concludes nothing from an absent tree.
CREATE TABLE root (
    id            INTEGER PRIMARY KEY,
    path          BLOB    NOT NULL,                                  -- os.fsencode: names are bytes
    real_path     BLOB    NOT NULL,                                  -- links resolved: identifies the root under another path
    type_key      TEXT,                                              -- type of all its files; NULL: their first folder names it
    held_model_at INTEGER,                                           -- Unix ms of the first model found
    scanned_at    INTEGER,                                           -- Unix ms of the last complete scan
    rules         TEXT,                                              -- digest of the rules of that scan
    watched       INTEGER NOT NULL DEFAULT 1 CHECK (watched IN (0, 1)) -- 0: no longer configured
) STRICT;
CREATE UNIQUE INDEX root_by_place ON root (path, ifnull(type_key, ''));

-- The file systems of a root at its last complete scan, by mount point ('' is the root itself). As in
-- mountinfo: the type, the source, the mounted folder of the source.
CREATE TABLE mount (
    root_id   INTEGER NOT NULL REFERENCES root (id),
    rel_path  BLOB    NOT NULL,                                      -- os.fsencode: names are bytes
    fs_type   TEXT    NOT NULL, fs_source BLOB NOT NULL, fs_root BLOB NOT NULL,
    PRIMARY KEY (root_id, rel_path)
) STRICT, WITHOUT ROWID;

-- The files on disk, as last judged. One row per regular file; it is deleted with its file.
CREATE TABLE file (
    root_id    INTEGER NOT NULL REFERENCES root (id),
    rel_path   BLOB    NOT NULL,                                     -- os.fsencode: names are bytes
    size       INTEGER NOT NULL CHECK (size >= 0),                   -- bytes
    mtime_ns   INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
    dev        TEXT    NOT NULL, inode TEXT NOT NULL,                -- unsigned 64 bits do not fit INTEGER
    verdict    TEXT    NOT NULL CHECK (verdict IN ('wanted', 'refused', 'conflict', 'unreadable',
                                                   'incomplete', 'ignored', 'shadowed')),
    reason     TEXT,
    model_path TEXT,                                                 -- its path in the catalog; NULL if it has none
    clash_key  TEXT,                                                 -- model_path with case folded
    judged_at  INTEGER NOT NULL,                                     -- Unix ms
    PRIMARY KEY (root_id, rel_path)                                 -- each scan reads it in path order
) STRICT, WITHOUT ROWID;
CREATE INDEX file_by_clash_key ON file (clash_key) WHERE clash_key IS NOT NULL;
CREATE INDEX file_unreadable ON file (verdict) WHERE verdict = 'unreadable';

-- One row per task to bring one fingerprint of one path into the catalog. Rows are never deleted while
-- live. The state says who owns the job; the facts say how far it got.
CREATE TABLE job (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,              -- ids are never reused: storage keys contain them
    root_id          INTEGER NOT NULL REFERENCES root (id),
    rel_path         BLOB    NOT NULL,
    size             INTEGER NOT NULL CHECK (size > 0),              -- bytes
    mtime_ns         INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
    dev              TEXT    NOT NULL, inode TEXT NOT NULL,
    model_path       TEXT    NOT NULL, model_type TEXT NOT NULL,
    file_name        TEXT    NOT NULL, display_name TEXT NOT NULL,
    bundle           TEXT,                                           -- the folder that is registered as a whole
    state            TEXT    NOT NULL CHECK (state IN ('queued', 'leased', 'done', 'failed', 'cancelled', 'superseded')),
    priority         INTEGER NOT NULL CHECK (priority IN (-1, 0, 1)), -- -1: bumped, 0: fresh, 1: backfill
    attempt          INTEGER NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    run_after        INTEGER NOT NULL,                               -- Unix ms
    held_class       TEXT    CHECK (held_class IN ('large', 'bundle')), -- waits for a signed-in user, or for its bundle
    lease_owner      TEXT,                                            -- who may write the job: the owner of one claim
    -- facts: committed after the answer of a call
    sha256           TEXT    CHECK (length(sha256) = 64),
    storage_key      TEXT,
    upload_id        TEXT, part_size INTEGER, part_count INTEGER,
    stored_at        INTEGER,                                        -- the object is complete in the object store
    record_id        TEXT,
    adopted          INTEGER NOT NULL DEFAULT 0 CHECK (adopted IN (0, 1)),
    -- intents: committed before the call is sent
    body_sent_at     INTEGER, complete_sent_at INTEGER, register_sent_at INTEGER, register_repeated_at INTEGER,
    last_error       TEXT, last_advice TEXT, last_kind TEXT,
    created_at       INTEGER NOT NULL, updated_at INTEGER NOT NULL,
    CHECK ((state = 'leased') = (lease_owner IS NOT NULL)),
    CHECK ((upload_id IS NULL) = (part_size IS NULL)),
    CHECK ((upload_id IS NULL) = (part_count IS NULL)),
    CHECK (upload_id IS NULL OR storage_key IS NOT NULL),
    CHECK (state <> 'done' OR record_id IS NOT NULL)                 -- a done job has a record
) STRICT;
CREATE UNIQUE INDEX job_one_live_per_path ON job (root_id, rel_path) WHERE state IN ('queued', 'leased');
CREATE INDEX job_order ON job (priority, size, id) WHERE state = 'queued' AND held_class IS NULL;
CREATE INDEX job_due ON job (run_after) WHERE state = 'queued' AND held_class IS NULL;
CREATE INDEX job_by_path ON job (root_id, rel_path, id);
CREATE INDEX job_by_bundle ON job (root_id, bundle) WHERE bundle IS NOT NULL;
CREATE INDEX job_held ON job (held_class) WHERE held_class IS NOT NULL;
CREATE INDEX job_in_doubt ON job (model_path)
    WHERE state = 'superseded' AND register_sent_at IS NOT NULL AND record_id IS NULL;
CREATE INDEX job_leased ON job (id) WHERE state = 'leased';

-- The leaf digests of a job's file: 16 bytes (XXH3-128) for each 4 MiB of the file, in order.
CREATE TABLE plan (
    job_id INTEGER PRIMARY KEY REFERENCES job (id) ON DELETE CASCADE,
    leaves BLOB    NOT NULL CHECK (length(leaves) % 16 = 0)
) STRICT;

-- Every storage key that was ever reserved, and the bytes that it was reserved for.
CREATE TABLE storage_key (
    storage_key TEXT PRIMARY KEY,
    job_id      INTEGER NOT NULL,                                    -- the job that reserved it first
    sha256      TEXT    CHECK (length(sha256) = 64)                  -- NULL: that job has not read its file yet
) STRICT, WITHOUT ROWID;
CREATE INDEX storage_key_unread ON storage_key (job_id) WHERE sha256 IS NULL;

-- One row per part that the object store acknowledged. The etag is stored verbatim, quotes included;
-- the digests are those of the leaves that were sent, as in plan.
CREATE TABLE part (
    job_id  INTEGER NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    number  INTEGER NOT NULL CHECK (number BETWEEN 1 AND 10000),
    etag    TEXT    NOT NULL CHECK (etag <> ''),
    leaves  BLOB    NOT NULL CHECK (length(leaves) > 0 AND length(leaves) % 16 = 0),
    PRIMARY KEY (job_id, number)
) STRICT, WITHOUT ROWID;

-- Every multipart upload that was ever opened, so that none is forgotten with its job.
CREATE TABLE upload (
    upload_id   TEXT    NOT NULL,
    storage_key TEXT    NOT NULL,
    job_id      INTEGER NOT NULL REFERENCES job (id),
    state       TEXT    NOT NULL CHECK (state IN ('open', 'completed', 'unwanted', 'aborted', 'gone', 'abandoned')),
    updated_at  INTEGER NOT NULL,
    run_after   INTEGER NOT NULL DEFAULT 0,                          -- next attempt to abort, Unix ms
    PRIMARY KEY (storage_key, upload_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX upload_unwanted ON upload (run_after) WHERE state = 'unwanted';

-- The history of a job: one row per transition.
CREATE TABLE job_event (
    id         INTEGER PRIMARY KEY,
    job_id     INTEGER NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    at         INTEGER NOT NULL,
    from_state TEXT, to_state TEXT NOT NULL,
    event      TEXT,                                                 -- NULL: the job was created
    reason     TEXT
) STRICT;
CREATE INDEX job_event_by_job ON job_event (job_id, id);

-- Failures of a job by kind: the retry table limits them by kind.
CREATE TABLE job_attempt (
    job_id INTEGER NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    kind   TEXT    NOT NULL,
    n      INTEGER NOT NULL,
    since  INTEGER NOT NULL,                                         -- Unix ms of the first
    PRIMARY KEY (job_id, kind)
) STRICT, WITHOUT ROWID;

-- Records that are known to be in the catalog, because we registered or found them.
CREATE TABLE record (
    record_id     TEXT    NOT NULL,
    model_path    TEXT    NOT NULL,
    sha256        TEXT    NOT NULL CHECK (length(sha256) = 64),
    size          INTEGER NOT NULL,
    storage_key   TEXT,
    root_id       INTEGER NOT NULL, rel_path BLOB NOT NULL,
    adopted       INTEGER NOT NULL CHECK (adopted IN (0, 1)),
    registered_at INTEGER NOT NULL,                                  -- Unix ms
    gone_at       INTEGER,                                           -- its file was deleted
    replaced_at   INTEGER,                                           -- its path has other bytes now
    retire_sent_at INTEGER,                                          -- intent: a disable or delete call
    retired_at    INTEGER,                                           -- the retirement is complete
    retire_after  INTEGER NOT NULL DEFAULT 0,                        -- next attempt, Unix ms
    change_sent_at INTEGER,                                          -- intent: an update or delete call of unknown outcome
    checked_at    INTEGER,                                           -- last comparison with the listing
    drift         TEXT    CHECK (drift IN ('missing', 'disabled', 'moved')), -- what others did to it
    twin_id       TEXT,                                              -- intent: it is replaced by this record
    PRIMARY KEY (model_path, sha256)
) STRICT, WITHOUT ROWID;
CREATE INDEX record_by_size ON record (size);
CREATE INDEX record_by_file ON record (root_id, rel_path);
CREATE INDEX record_unchecked ON record (model_path) WHERE checked_at IS NULL;
CREATE INDEX record_in_doubt ON record (sha256) WHERE change_sent_at IS NOT NULL;
CREATE INDEX record_gone ON record (sha256) WHERE gone_at IS NOT NULL;
CREATE INDEX record_replaced ON record (retire_after) WHERE replaced_at IS NOT NULL AND retired_at IS NULL;

-- Why all uploads wait.
CREATE TABLE hold (
    kind     TEXT    PRIMARY KEY CHECK (kind IN ('offline', 'throttled', 'operator', 'limit', 'root', 'paused')),
    since    INTEGER NOT NULL,
    reason   TEXT    NOT NULL,
    advice   TEXT,
    probe_at INTEGER NOT NULL,                                       -- Unix ms
    probes   INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- Bytes sent to the object store, counted if limits.max_bytes_per_day is set.
CREATE TABLE sent (
    hour  INTEGER PRIMARY KEY,                                       -- its start, Unix ms
    bytes INTEGER NOT NULL CHECK (bytes >= 0)
) STRICT;

-- The cloud and team whose catalog has the records above. A device key does not name its team, so the
-- last key that was verified to show the records is remembered.
CREATE TABLE cloud (
    id INTEGER PRIMARY KEY CHECK (id = 1), base_url TEXT NOT NULL, team_id TEXT,
    key_digest TEXT                                                  -- SHA-256 of that key; NULL: a session
) STRICT;

-- What is known about a server: routes that ever answered 2xx, its storage host, and its pace.
CREATE TABLE route (
    base_url TEXT NOT NULL, call TEXT NOT NULL,
    PRIMARY KEY (base_url, call)
) STRICT, WITHOUT ROWID;
CREATE TABLE storage_host (
    base_url TEXT PRIMARY KEY, host TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE pace (
    base_url TEXT PRIMARY KEY, calls_per_s REAL NOT NULL CHECK (calls_per_s > 0)
) STRICT, WITHOUT ROWID;

PRAGMA user_version = 1;
COMMIT;
