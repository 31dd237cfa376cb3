BEGIN IMMEDIATE;

-- A directory that is watched. Its mounts and held_model_at let an absent tree be told from an empty
-- one: nothing is concluded from an absent tree.
CREATE TABLE root (
    id            INTEGER PRIMARY KEY,
    path          BLOB    NOT NULL,                                  -- os.fsencode: names are bytes
    real_path     BLOB    NOT NULL,                                  -- links resolved: another spelling, the same root
    type_key      TEXT,                                              -- type of all its files; NULL: their first folder's
    held_model_at INTEGER,                                           -- Unix ms of the first model seen
    scanned_at    INTEGER,                                           -- Unix ms of the last whole walk
    rules         TEXT,                                              -- digest of the rules it judged by
    watched       INTEGER NOT NULL DEFAULT 1 CHECK (watched IN (0, 1)) -- 0: no longer configured
) STRICT;
CREATE UNIQUE INDEX root_by_place ON root (path, ifnull(type_key, ''));

-- The file systems that a root consisted of at its last whole walk, by the folder where each begins;
-- the root itself is ''. As in mountinfo: the type, the source, the mounted folder of the source.
CREATE TABLE mount (
    root_id   INTEGER NOT NULL REFERENCES root (id),
    rel_path  BLOB    NOT NULL,                                      -- os.fsencode: names are bytes
    fs_type   TEXT    NOT NULL, fs_source BLOB NOT NULL, fs_root BLOB NOT NULL,
    PRIMARY KEY (root_id, rel_path)
) STRICT, WITHOUT ROWID;

-- What is on disk, as last judged. One row a regular file; a row goes when its file goes.
CREATE TABLE file (
    root_id    INTEGER NOT NULL REFERENCES root (id),
    rel_path   BLOB    NOT NULL,                                     -- os.fsencode: names are bytes
    size       INTEGER NOT NULL CHECK (size >= 0),                   -- bytes
    mtime_ns   INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
    dev        TEXT    NOT NULL, inode TEXT NOT NULL,                -- unsigned 64 bits do not fit INTEGER
    verdict    TEXT    NOT NULL CHECK (verdict IN ('wanted', 'refused', 'conflict', 'unreadable',
                                                   'incomplete', 'ignored', 'shadowed')),
    reason     TEXT,
    model_path TEXT,                                                 -- where it would go; NULL if nowhere
    clash_key  TEXT,                                                 -- model_path with case folded
    judged_at  INTEGER NOT NULL,                                     -- Unix ms
    PRIMARY KEY (root_id, rel_path)                                 -- read in path order by every walk
) STRICT, WITHOUT ROWID;
CREATE INDEX file_by_clash_key ON file (clash_key) WHERE clash_key IS NOT NULL;
CREATE INDEX file_unreadable ON file (verdict) WHERE verdict = 'unreadable';

-- One row per wish to have one fingerprint of one path in the catalog. Rows are never deleted while
-- live. Who owns a job is its state; how far it got is what the facts say.
CREATE TABLE job (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,              -- no id comes again: storage keys name them
    root_id          INTEGER NOT NULL REFERENCES root (id),
    rel_path         BLOB    NOT NULL,
    size             INTEGER NOT NULL CHECK (size > 0),              -- bytes
    mtime_ns         INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
    dev              TEXT    NOT NULL, inode TEXT NOT NULL,
    model_path       TEXT    NOT NULL, model_type TEXT NOT NULL,
    file_name        TEXT    NOT NULL, display_name TEXT NOT NULL,
    bundle           TEXT,                                           -- the folder whose files all go or none
    state            TEXT    NOT NULL CHECK (state IN ('queued', 'leased', 'done', 'failed', 'cancelled', 'superseded')),
    priority         INTEGER NOT NULL CHECK (priority IN (-1, 0, 1)), -- -1: a person wants it first, 0: fresh, 1: backfill
    attempt          INTEGER NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    run_after        INTEGER NOT NULL,                               -- Unix ms
    held_class       TEXT    CHECK (held_class IN ('large', 'bundle')), -- waits for a signed-in user, or for its bundle
    lease_owner      TEXT, lease_expires_at INTEGER,                 -- Unix ms
    -- facts: what is known, committed after the answer
    sha256           TEXT    CHECK (length(sha256) = 64),
    storage_key      TEXT,
    upload_id        TEXT, part_size INTEGER, part_count INTEGER,
    stored_at        INTEGER,                                        -- the object is complete in the store
    record_id        TEXT,
    adopted          INTEGER NOT NULL DEFAULT 0 CHECK (adopted IN (0, 1)),
    -- intents: what was about to be sent, committed before the call
    body_sent_at     INTEGER, complete_sent_at INTEGER, register_sent_at INTEGER, register_repeated_at INTEGER,
    last_error       TEXT, last_advice TEXT, last_kind TEXT,
    created_at       INTEGER NOT NULL, updated_at INTEGER NOT NULL,
    CHECK ((state = 'leased') = (lease_owner IS NOT NULL)),
    CHECK ((lease_owner IS NULL) = (lease_expires_at IS NULL)),
    CHECK ((upload_id IS NULL) = (part_size IS NULL)),
    CHECK ((upload_id IS NULL) = (part_count IS NULL)),
    CHECK (upload_id IS NULL OR storage_key IS NOT NULL),
    CHECK (state <> 'done' OR record_id IS NOT NULL)                 -- done means: the record is known
) STRICT;
CREATE UNIQUE INDEX job_one_live_per_path ON job (root_id, rel_path) WHERE state IN ('queued', 'leased');
CREATE INDEX job_order ON job (priority, size, id) WHERE state = 'queued' AND held_class IS NULL;
CREATE INDEX job_due ON job (run_after) WHERE state = 'queued' AND held_class IS NULL;
CREATE INDEX job_by_path ON job (root_id, rel_path, id);
CREATE INDEX job_by_bundle ON job (root_id, bundle) WHERE bundle IS NOT NULL;
CREATE INDEX job_held ON job (held_class) WHERE held_class IS NOT NULL;
CREATE INDEX job_in_doubt ON job (model_path)
    WHERE state = 'superseded' AND register_sent_at IS NOT NULL AND record_id IS NULL;
CREATE INDEX job_leased ON job (lease_expires_at) WHERE state = 'leased';

-- The leaf digests of a job's plan: 16 bytes (XXH3-128) for each 4 MiB of the file, in order.
CREATE TABLE plan (
    job_id INTEGER PRIMARY KEY REFERENCES job (id) ON DELETE CASCADE,
    leaves BLOB    NOT NULL CHECK (length(leaves) % 16 = 0)
) STRICT;

-- Paths whose bytes once changed while size and times stood still: read again once a week.
CREATE TABLE reread (
    root_id  INTEGER NOT NULL REFERENCES root (id),
    rel_path BLOB    NOT NULL,
    due_at   INTEGER NOT NULL,                                       -- Unix ms
    PRIMARY KEY (root_id, rel_path)
) STRICT, WITHOUT ROWID;

-- Every storage key that was ever reserved, and the bytes it was reserved for: one key, one plan.
CREATE TABLE storage_key (
    storage_key TEXT PRIMARY KEY,
    job_id      INTEGER NOT NULL,                                    -- who reserved it first
    sha256      TEXT    CHECK (length(sha256) = 64)                  -- NULL: that job is not through its file
) STRICT, WITHOUT ROWID;
CREATE INDEX storage_key_unread ON storage_key (job_id) WHERE sha256 IS NULL;

-- One row a part that the store has acknowledged. The etag is kept verbatim, quotes included; the
-- digests are those of the leaves that were sent, as in plan.
CREATE TABLE part (
    job_id  INTEGER NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    number  INTEGER NOT NULL CHECK (number BETWEEN 1 AND 10000),
    etag    TEXT    NOT NULL CHECK (etag <> ''),
    leaves  BLOB    NOT NULL CHECK (length(leaves) > 0 AND length(leaves) % 16 = 0),
    sent_at INTEGER NOT NULL,
    PRIMARY KEY (job_id, number)
) STRICT, WITHOUT ROWID;

-- Every multipart upload that was ever opened, so that none is forgotten when its job is.
CREATE TABLE upload (
    upload_id   TEXT    NOT NULL,
    storage_key TEXT    NOT NULL,
    job_id      INTEGER NOT NULL REFERENCES job (id),
    state       TEXT    NOT NULL CHECK (state IN ('open', 'completed', 'unwanted', 'aborted', 'gone', 'abandoned')),
    opened_at   INTEGER NOT NULL, updated_at INTEGER NOT NULL,
    run_after   INTEGER NOT NULL DEFAULT 0,                          -- next abort try, Unix ms
    attempt     INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (storage_key, upload_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX upload_unwanted ON upload (run_after) WHERE state = 'unwanted';

-- Why a job is in its state: one row a transition.
CREATE TABLE job_event (
    id         INTEGER PRIMARY KEY,
    job_id     INTEGER NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    at         INTEGER NOT NULL,
    from_state TEXT, to_state TEXT NOT NULL,
    event      TEXT,                                                 -- NULL where the job was born
    reason     TEXT
) STRICT;
CREATE INDEX job_event_by_job ON job_event (job_id, id);

-- How often each kind of error met a job: the retry table limits by kind.
CREATE TABLE job_attempt (
    job_id INTEGER NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    kind   TEXT    NOT NULL,
    n      INTEGER NOT NULL,
    since  INTEGER NOT NULL,                                         -- Unix ms of the first
    PRIMARY KEY (job_id, kind)
) STRICT, WITHOUT ROWID;

-- What the catalog is known to hold at a path, because we registered it or found it there.
CREATE TABLE record (
    record_id     TEXT    NOT NULL,
    model_path    TEXT    NOT NULL,
    sha256        TEXT    NOT NULL CHECK (length(sha256) = 64),
    size          INTEGER NOT NULL,
    storage_key   TEXT,
    root_id       INTEGER NOT NULL, rel_path BLOB NOT NULL,
    adopted       INTEGER NOT NULL CHECK (adopted IN (0, 1)),
    registered_at INTEGER NOT NULL,                                  -- Unix ms
    gone_at       INTEGER,                                           -- its file was found missing
    replaced_at   INTEGER,                                           -- its path holds other bytes now
    retire_sent_at INTEGER,                                          -- intent: disable or delete is about to be sent
    retired_at    INTEGER,                                           -- nothing is left to do
    retire_after  INTEGER NOT NULL DEFAULT 0,                        -- next try, Unix ms
    change_sent_at INTEGER,                                          -- intent: an update or delete of unknown outcome
    checked_at    INTEGER,                                           -- last compared with the listing
    drift         TEXT    CHECK (drift IN ('missing', 'disabled', 'moved')), -- what others did to it
    twin_id       TEXT,                                              -- intent: it makes way for this record
    PRIMARY KEY (model_path, sha256)
) STRICT, WITHOUT ROWID;
CREATE INDEX record_by_size ON record (size);
CREATE INDEX record_by_file ON record (root_id, rel_path);
CREATE INDEX record_unchecked ON record (model_path) WHERE checked_at IS NULL;
CREATE INDEX record_in_doubt ON record (sha256) WHERE change_sent_at IS NOT NULL;
CREATE INDEX record_gone ON record (sha256) WHERE gone_at IS NOT NULL;
CREATE INDEX record_replaced ON record (retire_after) WHERE replaced_at IS NOT NULL AND retired_at IS NULL;

-- Why everything (or every large file) waits.
CREATE TABLE hold (
    kind     TEXT    PRIMARY KEY CHECK (kind IN ('offline', 'throttled', 'operator', 'limit', 'root', 'paused')),
    since    INTEGER NOT NULL,
    reason   TEXT    NOT NULL,
    advice   TEXT,
    probe_at INTEGER NOT NULL,                                       -- Unix ms
    probes   INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- Bytes that left for the object store, counted where limits.max_bytes_per_day is set.
CREATE TABLE sent (
    hour  INTEGER PRIMARY KEY,                                       -- its beginning, Unix ms
    bytes INTEGER NOT NULL CHECK (bytes >= 0)
) STRICT;

-- The cloud and team whose catalog the records above are in: what is registered in one is not in
-- another. Of a device key nobody tells the team: the last one that was known to show them is noted.
CREATE TABLE cloud (
    id INTEGER PRIMARY KEY CHECK (id = 1), base_url TEXT NOT NULL, team_id TEXT,
    key_digest TEXT                                                  -- SHA-256 of that key; NULL: a session
) STRICT;

-- What a server has shown of itself: which routes ever answered 2xx, which host takes the bytes.
CREATE TABLE route (
    base_url TEXT NOT NULL, call TEXT NOT NULL, answered_at INTEGER NOT NULL,
    PRIMARY KEY (base_url, call)
) STRICT, WITHOUT ROWID;
CREATE TABLE storage_host (
    base_url TEXT PRIMARY KEY, host TEXT NOT NULL, pinned_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

PRAGMA user_version = 1;
COMMIT;
