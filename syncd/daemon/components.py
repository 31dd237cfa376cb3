"""
Builds the components of a service from its settings.

``build_components`` opens what a run needs and closes it at the end of the run. ``Components`` builds
each component when it is first used, from the components that it needs.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypedDict

from syncd.clock import Clock
from syncd.cloud import object_store, transport
from syncd.cloud.capabilities import ServerCapabilities
from syncd.cloud.client import CloudClient
from syncd.cloud.credentials import Credentials
from syncd.cloud.factory import build_cloud_client, build_transport, host_policy, network
from syncd.cloud.listing import Catalog
from syncd.config.credential import CredentialSource
from syncd.config.extra_paths import extra_folders
from syncd.config.reload import LiveSettings
from syncd.config.rules import rules_for
from syncd.config.settings import Settings, shown, value_at
from syncd.control.context import ControlContext
from syncd.control.server import serve
from syncd.core.catalog.permissions import describe_permissions
from syncd.core.files import settling
from syncd.core.files.search_paths import Folder, Tree
from syncd.core.files.selection import Rules
from syncd.core.notifications import signing_key
from syncd.core.transfer import rates
from syncd.core.transfer.concurrency import AdaptiveConcurrency
from syncd.daemon.credential_check import CredentialCheck
from syncd.daemon.team_guard import TeamGuard
from syncd.disk_full import DiskFullRetry
from syncd.errors import JobError, StateError
from syncd.executors import Executors
from syncd.fs import mounts
from syncd.fs.download_notes import expected_sha256
from syncd.fs.watcher import Watcher
from syncd.ingest.comparer import Comparer, Root
from syncd.ingest.ingester import Ingester
from syncd.ingest.loop import ChangeQueue, IngestLoop
from syncd.ingest.settle_tracker import SettleTracker
from syncd.maintenance.abort_uploads import UploadAborter
from syncd.maintenance.loop import MaintenanceLoop
from syncd.maintenance.reconcile import Reconciler
from syncd.maintenance.retire_records import Policy, RecordCleanup
from syncd.monitoring.progress import Meter, Tally
from syncd.monitoring.webhook import Receiver, Receivers, WebhookNotifier
from syncd.store.clock_steps import ClockSteps
from syncd.store.outline import HoldRow
from syncd.store.store import Store
from syncd.types import Call, Hint, HintKind, HoldKind, Job, printable
from syncd.upload.comfyui_throttle import BusyPolicy, ComfyUIThrottle
from syncd.upload.context import WorkerDeps
from syncd.upload.dispatcher import Dispatcher
from syncd.upload.hold_tracker import HoldTracker
from syncd.upload.limits import Bandwidth, ConcurrencyLimiter
from syncd.upload.quota import TransferQuota
from syncd.upload.routes import Routes
from syncd.upload.transfer import HostRule, Transfer
from syncd.upload.worker import Worker

if TYPE_CHECKING:
    from syncd.daemon.apply_plan import Applier

FILES_MOST = 16
"""``upload.files`` at most, whatever a reload brings: a thread begins when there is work for it."""


@dataclass(frozen=True, slots=True)
class Factories:
    """The outside world of a service, which tests replace: threads, HTTP clients, watcher, control API."""

    lanes: Callable[[Settings, DiskFullRetry], Executors] = lambda settings, disk_full: Executors(
        files=FILES_MOST, slots=object_store.CONNECTIONS, disk_full=disk_full
    )
    api: Callable[[Settings], transport.HttpClient] = lambda settings: transport.build_client(
        **network(settings)
    )
    objects: Callable[[Settings], object_store.HttpClient] = lambda settings: (
        object_store.build_client(**network(settings))
    )
    watcher: Callable[[Settings, Mapping[int, str], Callable[[Hint], None]], Watcher] = (
        lambda settings, roots, on_hint: Watcher(
            roots, on_hint, follow_links=settings.scan.symlinks != "skip"
        )
    )
    control: Callable[[Settings, ControlContext], AbstractAsyncContextManager[None]] = (
        lambda settings, control: serve(control, settings.http.address)
    )


@dataclass(frozen=True, slots=True)
class Resources:
    """
    What a service gives to its components. The callbacks run on the event loop's thread.

    Args:
        live: The settings; components read those that a reload may change from here.
        source: Where the credential comes from.
        jitter: Draws from [0, 1).
        latest_s: Seconds after which a request whose answer was lost can no longer take effect.
        once: It is one backfill.
        on_clock_step: Called after the wall clock was set.
        state_hold: Returns the hold of a full state disk, if it is full.
        unready: Returns the reasons why the service is not ready.
        watch_mode: Returns how changes are noticed: ``events``, ``degraded`` or ``scans``.
    """

    live: LiveSettings
    source: CredentialSource
    store: Store
    lanes: Executors
    clock: Clock
    jitter: Callable[[], float]
    meter: Meter
    latest_s: float
    once: bool
    on_clock_step: Callable[[], None]
    state_hold: Callable[[], HoldRow | None]
    unready: Callable[[], list[str]]
    watch_mode: Callable[[], str]

    @property
    def shared(self) -> "Shared":
        return {"store": self.store, "lanes": self.lanes, "clock": self.clock}


class Shared(TypedDict):
    """What most components need."""

    store: Store
    lanes: Executors
    clock: Clock


def open_store(settings: Settings) -> Store:
    """
    Open the state directory, exclusively.

    Raises:
        AlreadyRunning, StateError: It cannot be used.
    """
    state_dir = os.fspath(settings.state_dir)
    kind = mounts.network_filesystem(state_dir)
    if kind is not None:  # neither SQLite's log nor the lock can be relied on there
        raise StateError(
            f"The state directory {printable(state_dir)} is on a network file system ({kind}), "
            "where databases break. Set state_dir (SYNCD_STATE_DIR) to a directory on a local disk."
        )
    return Store(state_dir)


@asynccontextmanager
async def build_components(
    resources: Resources, factories: Factories
) -> AsyncIterator["Components"]:
    """
    Build the components of one run.

    Raises:
        ConfigError: The state directory belongs to another cloud or team.
    """
    settings, clock = resources.live.settings, resources.clock
    team_guard = TeamGuard(settings, resources.source, **resources.shared)
    await team_guard.bind_state_dir(team_guard.session_team())
    async with factories.api(settings) as http:
        with factories.objects(settings) as bare:
            sender = await _transport(resources, http)
            credentials = team_guard.credentials(sender)
            on_request = partial(_count_request, resources.meter)
            roots, tree = await _roots(resources)
            components = Components(
                resources,
                team_guard,
                credentials,
                build_cloud_client(settings, sender, credentials, clock=clock),
                object_store.ObjectStore(bare, host_policy(settings), on_request=on_request),
                roots,
                tree,
            )
            try:
                yield components
            finally:
                components.ingester.stop()
                await credentials.close()


async def _transport(resources: Resources, http: transport.HttpClient) -> transport.Transport:
    """Build the transport, and remember across restarts which calls were answered, and at what pace."""
    settings, servers, db = resources.live.settings, resources.store.servers, resources.lanes.db
    base_url = settings.api.base_url
    notes: set[asyncio.Task[None]] = set()

    def keep(writing: Coroutine[Any, Any, None]) -> None:
        note = asyncio.ensure_future(writing)
        notes.add(note)
        note.add_done_callback(notes.discard)

    def on_answered(call: Call) -> None:
        keep(db(servers.note_answered, base_url, call))

    answered = await db(servers.answered, base_url)
    return build_transport(
        settings,
        http,
        clock=resources.clock,
        jitter=resources.jitter,
        capabilities=ServerCapabilities(answered, on_answered=on_answered),
        on_request=partial(_count_request, resources.meter),
        on_repeat=lambda call: resources.meter.count(Tally.RETRY, "request"),
        on_pace=lambda calls_per_s: keep(db(servers.note_pace, base_url, calls_per_s)),
        learned_pace=await db(servers.pace, base_url),
    )


def _count_request(meter: Meter, call: Call, status: int | None) -> None:
    meter.count(Tally.REQUEST, call, "none" if status is None else str(status))


async def _roots(resources: Resources) -> tuple[dict[int, Root], Tree]:
    """Return models_dir and the folders of extra_model_paths; retire other roots."""
    settings, files = resources.live.settings, resources.store.files
    models = await _root(resources, os.fspath(settings.models_dir))
    placed: list[tuple[int, Folder]] = []
    roots = {models.id: models}
    for folder in await resources.lanes.scan(extra_folders, settings):
        root = models
        if folder.top is None:
            root = await _root(resources, folder.path, folder.type_key)
        roots[root.id] = root
        placed.append((root.id, folder))
    await resources.lanes.db(files.retire, list(roots), resources.clock.now_ms())
    return roots, Tree(models.id, placed)


async def _root(resources: Resources, path: str, type_key: str | None = None) -> Root:
    lanes, files = resources.lanes, resources.store.files
    real = await lanes.scan(os.path.realpath, path)
    root_id = await lanes.db(files.root_id, path, real_path=real, type_key=type_key)
    network = await lanes.scan(mounts.network_filesystem, path)
    return Root(root_id, path, network is not None, type_key)


class Components:
    """The components of one run, each built when it is first used."""

    def __init__(
        self,
        resources: Resources,
        team_guard: TeamGuard,
        credentials: Credentials,
        api: CloudClient,
        objects: object_store.ObjectStore,
        roots: Mapping[int, Root],
        tree: Tree,
    ) -> None:
        self.resources = resources
        self.team_guard = team_guard
        self.credentials = credentials
        self.roots = roots
        self.live = resources.live
        self.store = resources.store
        self.changes = ChangeQueue(resources.clock)
        self._api = api
        self._objects = objects
        self._tree = tree
        self._settings = resources.live.settings
        self._hidden = self._settings.catalog.register_as == "disabled"
        self._clock = resources.clock
        self._meter = resources.meter
        self._shared = resources.shared
        self._wake, self._wake_maintenance = asyncio.Event(), asyncio.Event()
        self._catalog = Catalog(api, resources.clock)
        self.sending = Bandwidth(rates.parse(self._settings.upload.bandwidth), self._clock)
        self.reading = Bandwidth(rates.parse(self._settings.guest.hash_bandwidth), self._clock)
        self.clock_steps = ClockSteps(on_step=self._on_clock_step, **self._shared)

    def on_reload(self) -> None:
        """Apply new settings to the components that do not read them each time."""
        settings = self.live.settings
        self.sending.follow(rates.parse(settings.upload.bandwidth))
        self.reading.follow(rates.parse(settings.guest.hash_bandwidth))
        self.comfyui_throttle.take(_busy_policy(settings))
        self.transfer.use(settings.upload.parts, settings.upload.parts_max)
        self.dispatcher.wake()

    def _on_clock_step(self) -> None:
        self._wake.set()
        self._wake_maintenance.set()
        self.resources.on_clock_step()

    def _hint(self, hint: Hint) -> None:
        self.changes.add(hint)
        self.changes.wake()

    def _path_of(self, job: Job) -> str:
        return os.path.join(self.roots[job.root_id].path, job.rel_path)

    # -- from file to job ------------------------------------------------------------------------

    @cached_property
    def _comparer(self) -> Comparer:
        def rules_of(root: Root) -> Rules:
            now, tree = self.live.settings, repr(self._tree)
            return rules_for(now, root.path, type_key=root.type_key, tree=tree)

        return Comparer(
            self.roots,
            files=self.store.seen,
            symlinks=self._settings.scan.symlinks,
            tree=self._tree,
            rules_of=rules_of,
            kept=self._settings.kept_paths,
        )

    @cached_property
    def ingester(self) -> Ingester:
        return Ingester(
            self.roots,
            comparer=self._comparer,
            tracker=SettleTracker(
                self.roots,
                clock=self._clock,
                meter=self._meter,
                windows=lambda: _windows(self.live.settings),
            ),
            meter=self._meter,
            read_lease=lambda: self.live.settings.settle.read_lease,
            on_queued=self._wake.set,
            on_freed=self._hint,
            **self._shared,
        )

    @cached_property
    def ingest(self) -> IngestLoop:
        return IngestLoop(
            self.ingester,
            self.changes,
            self.roots,
            on_root_missing=self.holds.begin_root,
            on_roots_present=partial(self.holds.end, HoldKind.ROOT),
            on_processed=self._wake.set,
            **self._shared,
        )

    # -- from job to registered model --------------------------------------------------------------

    @cached_property
    def holds(self) -> HoldTracker:
        return HoldTracker(
            credentials=self.credentials,
            quota=self.quota,
            notifier=self.notifier,
            wake=self._wake,
            describe_permissions=self._permissions,
            **self._shared,
        )

    async def _permissions(self) -> str | None:
        team_id = None
        if self.credentials.is_session:
            team_id = self.credentials.team_id or self._settings.api.team_id
        try:
            return describe_permissions(await self._api.me(), team_id)
        except JobError:
            return None

    @cached_property
    def dispatcher(self) -> Dispatcher:
        return Dispatcher(
            Worker(self._worker_deps(), on_contact=self.holds.contact),
            self.holds,
            clock_steps=self.clock_steps,
            notifier=self.notifier,
            quota=self.quota,
            wake=self._wake,
            owner=f"{socket.gethostname()}:{os.getpid()}",
            large_files=lambda: self.live.settings.upload.files,
            on_ended=self._wake_maintenance.set,
            **self._shared,
        )

    def _worker_deps(self) -> WorkerDeps:
        def lacking(job: Job) -> str | None:
            assert job.target.bundle is not None, "asked of bundles only"
            return self._comparer.missing_from_bundle(self.roots[job.root_id], job.target.bundle)

        return WorkerDeps(
            jitter=self.resources.jitter,
            meter=self._meter,
            api=self._api,
            catalog=self._catalog,
            transfer=self.transfer,
            routes=Routes(
                self._settings.api.single_put_limit,
                credentials=self.credentials,
                api=self._api,
            ),
            reading=self.reading,
            latest_s=self.resources.latest_s,
            once=self.resources.once,
            hidden=self._hidden,
            path_of=self._path_of,
            expected_of=lambda job: expected_sha256(self.roots[job.root_id].path, job.rel_path),
            lacking=lacking,
            on_moved=lambda job: self._hint(Hint(job.root_id, job.rel_path, HintKind.RESCAN)),
            **self._shared,
        )

    @cached_property
    def quota(self) -> TransferQuota:
        return TransferQuota(lambda: self.live.settings.limits.max_bytes_per_day, **self._shared)

    @cached_property
    def transfer(self) -> Transfer:
        settings = self._settings
        return Transfer(
            slots=ConcurrencyLimiter(
                AdaptiveConcurrency(settings.upload.parts, settings.upload.parts_max)
            ),
            api=self._api,
            objects=self._objects,
            jitter=self.resources.jitter,
            meter=self._meter,
            hosts=HostRule(
                settings.api.base_url,
                frozenset(settings.network.storage_hosts),
                pinned=not settings.api.loopback,
            ),
            quota=self.quota,
            bandwidth=self.sending,
            path_of=self._path_of,
            **self._shared,
        )

    @cached_property
    def comfyui_throttle(self) -> ComfyUIThrottle:
        return ComfyUIThrottle(
            _busy_policy(self._settings),
            sending=self.sending,
            reading=self.reading,
            meter=self._meter,
            clock=self._clock,
            ca_bundle=network(self._settings)["ca_bundle"],
        )

    # -- records -----------------------------------------------------------------------------------

    @cached_property
    def _retirement(self) -> RecordCleanup:
        catalog = self._settings.catalog
        policy = Policy(catalog.on_delete, catalog.delete_grace_s, catalog.delete_most)
        return RecordCleanup(api=self._api, policy=policy, **self._shared)

    @cached_property
    def credential_check(self) -> CredentialCheck:
        return CredentialCheck(self.credentials, self.team_guard, self.holds, **self._shared)

    @cached_property
    def maintenance(self) -> MaintenanceLoop:
        return MaintenanceLoop(
            clock_steps=self.clock_steps,
            aborter=UploadAborter(api=self._api, **self._shared),
            retirement=self._retirement,
            reconciler=Reconciler(
                api=self._api,
                catalog=self._catalog,
                hidden=self._hidden,
                latest_s=self.resources.latest_s,
                **self._shared,
            ),
            woken=self._wake_maintenance,
            reconcile_due=self._settings.catalog.reconcile_s > 0,
            check_credentials=self.credential_check.run,
            on_jobs_freed=self._wake.set,
            **self._shared,
        )

    def applier(self) -> "Applier":
        """Build what applies a plan."""
        from syncd.daemon.apply_plan import Applier  # the daemon applies no plan

        return Applier(
            api=self._api,
            catalog=self._catalog,
            comparer=self._comparer,
            retirement=self._retirement,
            roots=self.roots,
            hidden=self._hidden,
            **self._shared,
        )

    # -- notifications and control -----------------------------------------------------------------

    @cached_property
    def notifier(self) -> WebhookNotifier:
        return WebhookNotifier(
            _receivers(self._settings),
            jitter=self.resources.jitter,
            shown_of=lambda job: self.roots[job.root_id].display_path(job.rel_path),
            **self._shared,
            **network(self._settings),
        )

    @cached_property
    def control(self) -> ControlContext:
        return ControlContext(
            state_dir=os.fspath(self._settings.state_dir),
            started_at=self._clock.now_ms(),
            meter=self._meter,
            credentials=self.credentials,
            dispatcher=self.dispatcher,
            transfer=self.transfer,
            bandwidth=self.sending,
            calls_per_s=self._api.calls_per_s,
            settling=self.ingester.tracker.progress,
            hint=self._hint,
            state_hold=self.resources.state_hold,
            unready=self.resources.unready,
            watch_mode=self.resources.watch_mode,
            **self._shared,
        )


# -- values from settings --------------------------------------------------------------------------


def _windows(settings: Settings) -> settling.Windows:
    return settling.Windows(
        quiet_s=settings.settle.quiet_s,
        closed_s=settings.settle.quiet_closed_s,
        network_s=settings.settle.quiet_network_s,
    )


def _busy_policy(settings: Settings) -> BusyPolicy:
    comfyui = settings.comfyui
    slow_rate = rates.parse_rate(comfyui.busy_bandwidth)
    assert slow_rate is not None, "checked with the settings"
    return BusyPolicy(comfyui.url, comfyui.when_busy, slow_rate)


def _receivers(settings: Settings) -> Receivers:
    secret = settings.notify.webhook_secret
    return Receivers(
        webhook=_receiver(settings, "notify.webhook_url"),
        heartbeat=_receiver(settings, "notify.heartbeat_url"),
        key=None if secret is None else signing_key(secret.get_secret_value()),
        machine=socket.gethostname(),
    )


def _receiver(settings: Settings, key: str) -> Receiver | None:
    url: Any = value_at(settings, key)
    return None if url is None else Receiver(key, url.get_secret_value(), shown(url))
