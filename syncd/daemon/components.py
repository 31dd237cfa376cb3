"""
Builds the components of a service from its settings.

``build_components`` builds all parts for one run and closes them at its end. It does not know who runs them:
what they ask of that one, and tell it, are ``Callbacks``. How the service meets the world are ``Factories``.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

from syncd.clock import Clock
from syncd.cloud import object_store, transport
from syncd.cloud.capabilities import ServerCapabilities
from syncd.cloud.client import CloudClient
from syncd.cloud.credentials import Credentials
from syncd.cloud.factory import build_cloud_client, build_transport, host_policy, network
from syncd.cloud.listing import Catalog
from syncd.config.extra_paths import extra_folders
from syncd.config.rules import rules_for
from syncd.config.settings import Settings, shown, value_at
from syncd.control.context import ControlContext
from syncd.control.server import serve
from syncd.core.catalog.permissions import describe_permissions
from syncd.core.files import settling
from syncd.core.files.search_paths import Folder, Tree
from syncd.core.files.selection import Rules
from syncd.core.jobs.late import LATEST_S
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
from syncd.ingest.change_queue import ChangeQueue
from syncd.ingest.comparer import Comparer, Root
from syncd.ingest.ingester import Ingester
from syncd.ingest.loop import IngestLoop
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
class Callbacks:
    """
    What the components call in the service; on the event loop's thread, except *settings*.

    Args:
        settings: The current settings.
        on_clock_step: Called after the wall clock was set.
        state_hold: The hold of a full state disk, if it is full.
        unready: Why the service is not ready.
        watch_mode: How changes are noticed: ``events``, ``degraded`` or ``walks``.
    """

    settings: Callable[[], Settings]
    on_clock_step: Callable[[], None]
    state_hold: Callable[[], HoldRow | None]
    unready: Callable[[], list[str]]
    watch_mode: Callable[[], str]


class Shared(TypedDict):
    """What most components need."""

    store: Store
    lanes: Executors
    clock: Clock


@dataclass(frozen=True, slots=True)
class Resources:
    """
    What a service is created with.

    Args:
        settings: As they are at the start.
        jitter: Draws from [0, 1).
        latest_s: Seconds after which a request whose answer was lost cannot take effect any more.
    """

    settings: Settings
    store: Store
    lanes: Executors
    clock: Clock
    jitter: Callable[[], float]
    meter: Meter
    latest_s: float = LATEST_S

    @property
    def shared(self) -> Shared:
        return {"store": self.store, "lanes": self.lanes, "clock": self.clock}


@dataclass(frozen=True, slots=True)
class Components:
    """The components of one run."""

    roots: Mapping[int, Root]
    store: Store
    team_guard: TeamGuard
    credentials: Credentials
    sending: Bandwidth
    reading: Bandwidth
    comfyui_throttle: ComfyUIThrottle
    quota: TransferQuota
    transfer: Transfer
    worker: Worker
    holds: HoldTracker
    notifier: WebhookNotifier
    clock_steps: ClockSteps
    dispatcher: Dispatcher
    changes: ChangeQueue
    ingester: Ingester
    ingest: IngestLoop
    maintenance: MaintenanceLoop
    credential_check: CredentialCheck
    applier: "Callable[[], Applier]"
    control: ControlContext

    def follow(self, settings: Settings) -> None:
        """Apply the settings that can change while transfers run."""
        self.sending.follow(rates.parse(settings.upload.bandwidth))
        self.reading.follow(rates.parse(settings.guest.hash_bandwidth))
        self.comfyui_throttle.take(_busy_policy(settings))
        self.ingester.tracker.set_windows(_windows(settings))
        self.ingester.set_read_lease(settings.settle.read_lease)
        self.dispatcher.use(settings.upload.files)
        self.transfer.use(settings.upload.parts, settings.upload.parts_max)


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
    resources: Resources,
    callbacks: Callbacks,
    team_guard: TeamGuard,
    *,
    factories: Factories,
    once: bool,
) -> AsyncIterator[Components]:
    """All parts for one run, with *once* of a backfill; their HTTP clients are closed at its end."""
    settings = resources.settings
    async with factories.api(settings) as http:
        with factories.objects(settings) as bare:
            sender = await _transport(resources, http)
            credentials = team_guard.credentials(sender)
            api = build_cloud_client(settings, sender, credentials, clock=resources.clock)
            on_request = partial(_count_request, resources.meter)
            objects = object_store.ObjectStore(bare, host_policy(settings), on_request=on_request)
            roots, tree = await _roots(resources)
            changes = ChangeQueue(resources.clock)
            builder = _Builder(
                resources,
                callbacks,
                team_guard,
                credentials,
                api,
                objects,
                roots,
                changes,
                tree,
                once,
            )
            components = builder.components()
            try:
                yield components
            finally:
                components.ingester.stop()
                await credentials.close()


# -- prerequisites ----------------------------------------------------------------


async def _transport(resources: Resources, http: transport.HttpClient) -> transport.Transport:
    """The transport; which calls have answered is remembered across restarts."""
    base_url, servers = resources.settings.api.base_url, resources.store.servers
    notes: set[asyncio.Task[None]] = set()

    def on_answered(call: Call) -> None:
        note = asyncio.ensure_future(
            resources.lanes.db(servers.note_answered, base_url, call, resources.clock.now_ms())
        )
        notes.add(note)
        note.add_done_callback(notes.discard)

    answered = await resources.lanes.db(servers.answered, base_url)
    return build_transport(
        resources.settings,
        http,
        clock=resources.clock,
        jitter=resources.jitter,
        capabilities=ServerCapabilities(answered, on_answered=on_answered),
        on_request=partial(_count_request, resources.meter),
        on_repeat=lambda call: resources.meter.count(Tally.RETRY, "request"),
    )


def _count_request(meter: Meter, call: Call, status: int | None) -> None:
    meter.count(Tally.REQUEST, call, "none" if status is None else str(status))


async def _roots(resources: Resources) -> tuple[dict[int, Root], Tree]:
    """models_dir and the folders of extra_model_paths; other roots are retired."""
    models = await _root(resources, os.fspath(resources.settings.models_dir))
    folders = await resources.lanes.scan(extra_folders, resources.settings)
    placed = [(await _root_of(resources, models, folder), folder) for folder in folders]
    roots = {root.id: root for root in (models, *(root for root, _ in placed))}
    await resources.lanes.db(resources.store.files.retire, list(roots), resources.clock.now_ms())
    return roots, Tree(models.id, [(root.id, folder) for root, folder in placed])


async def _root_of(resources: Resources, models: Root, folder: Folder) -> Root:
    if folder.top is not None:
        return models
    return await _root(resources, folder.path, folder.type_key)


async def _root(resources: Resources, path: str, type_key: str | None = None) -> Root:
    lanes, files = resources.lanes, resources.store.files
    real = await lanes.scan(os.path.realpath, path)
    root_id = await lanes.db(files.root_id, path, real_path=real, type_key=type_key)
    network = await lanes.scan(mounts.network_filesystem, path)
    return Root(root_id, path, network is not None, type_key)


# -- the parts -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Builder:
    """Builds the components, each from those before it."""

    resources: Resources
    callbacks: Callbacks
    team_guard: TeamGuard
    credentials: Credentials
    api: CloudClient
    objects: object_store.ObjectStore
    roots: Mapping[int, Root]
    changes: ChangeQueue
    tree: Tree
    once: bool

    def components(self) -> Components:
        """Build all components."""
        settings, clock = self.resources.settings, self.resources.clock
        sending = Bandwidth(rates.parse(settings.upload.bandwidth), clock)
        reading = Bandwidth(rates.parse(settings.guest.hash_bandwidth), clock)
        quota = TransferQuota(
            lambda: self.callbacks.settings().limits.max_bytes_per_day, **self.resources.shared
        )
        catalog = Catalog(self.api, clock)
        comparer = self._comparer()
        transfer = self._transfer(quota, sending)
        wake, wake_maintenance = asyncio.Event(), asyncio.Event()
        notifier = self._build_notifier()

        def on_step() -> None:
            wake.set()
            wake_maintenance.set()
            self.callbacks.on_clock_step()

        clock_steps = ClockSteps(on_step=on_step, **self.resources.shared)
        holds = HoldTracker(
            credentials=self.credentials,
            quota=quota,
            notifier=notifier,
            wake=wake,
            describe_permissions=self._permissions,
            **self.resources.shared,
        )
        worker = Worker(
            self._worker_deps(comparer, transfer, catalog, reading), on_contact=holds.contact
        )
        dispatcher = Dispatcher(
            worker,
            holds,
            clock_steps=clock_steps,
            notifier=notifier,
            quota=quota,
            wake=wake,
            owner=f"{socket.gethostname()}:{os.getpid()}",
            max_jobs=settings.upload.files,
            on_ended=wake_maintenance.set,
            **self.resources.shared,
        )
        retirement = self._retirement()
        ingester = self._ingester(comparer, dispatcher)
        ingest = IngestLoop(
            ingester,
            self.changes,
            self.roots,
            on_root_missing=holds.begin_root,
            on_roots_present=partial(holds.end, HoldKind.ROOT),
            on_processed=wake.set,
            **self.resources.shared,
        )
        credential_check = CredentialCheck(
            self.credentials, self.team_guard, holds, **self.resources.shared
        )
        maintenance = MaintenanceLoop(
            clock_steps=clock_steps,
            aborter=UploadAborter(api=self.api, **self.resources.shared),
            retirement=retirement,
            reconciler=Reconciler(
                api=self.api,
                catalog=catalog,
                hidden=self._hidden,
                latest_s=self.resources.latest_s,
                **self.resources.shared,
            ),
            wake=wake_maintenance,
            reconcile=settings.catalog.reconcile_s > 0,
            check_credentials=credential_check.run,
            on_jobs_freed=wake.set,
            **self.resources.shared,
        )
        return Components(
            roots=self.roots,
            store=self.resources.store,
            team_guard=self.team_guard,
            credentials=self.credentials,
            sending=sending,
            reading=reading,
            comfyui_throttle=self._comfyui_throttle(sending, reading),
            quota=quota,
            transfer=transfer,
            worker=worker,
            holds=holds,
            notifier=notifier,
            clock_steps=clock_steps,
            dispatcher=dispatcher,
            changes=self.changes,
            ingester=ingester,
            ingest=ingest,
            maintenance=maintenance,
            credential_check=credential_check,
            applier=partial(self._applier, comparer, catalog, retirement),
            control=self._control(dispatcher, transfer, sending, ingester),
        )

    def _hint(self, hint: Hint) -> None:
        self.changes.add(hint)
        self.changes.wake()

    # -- the way in --------------------------------------------------------------------------------

    def _comparer(self) -> Comparer:
        def rules_of(root: Root) -> Rules:
            now = self.callbacks.settings()
            return rules_for(now, root.path, type_key=root.type_key, tree=repr(self.tree))

        return Comparer(
            self.roots,
            files=self.resources.store.seen,
            symlinks=self.resources.settings.scan.symlinks,
            tree=self.tree,
            rules_of=rules_of,
            kept=self.resources.settings.kept_paths,
        )

    def _ingester(self, comparer: Comparer, dispatcher: Dispatcher) -> Ingester:
        settings = self.resources.settings
        return Ingester(
            self.roots,
            comparer=comparer,
            tracker=SettleTracker(
                self.roots,
                clock=self.resources.clock,
                meter=self.resources.meter,
                windows=_windows(settings),
                once=self.once,
            ),
            meter=self.resources.meter,
            read_lease=settings.settle.read_lease,
            on_queued=dispatcher.wake,
            on_freed=self._hint,
            **self.resources.shared,
        )

    # -- the way out -------------------------------------------------------------------------------

    def _transfer(self, quota: TransferQuota, sending: Bandwidth) -> Transfer:
        settings = self.resources.settings
        return Transfer(
            slots=ConcurrencyLimiter(
                AdaptiveConcurrency(settings.upload.parts, settings.upload.parts_max)
            ),
            api=self.api,
            objects=self.objects,
            jitter=self.resources.jitter,
            meter=self.resources.meter,
            hosts=HostRule(
                settings.api.base_url,
                frozenset(settings.network.storage_hosts),
                pinned=not settings.api.loopback,
            ),
            quota=quota,
            bandwidth=sending,
            path_of=self._path_of,
            **self.resources.shared,
        )

    def _worker_deps(
        self, comparer: Comparer, transfer: Transfer, catalog: Catalog, reading: Bandwidth
    ) -> WorkerDeps:
        settings = self.resources.settings

        def lacking(job: Job) -> str | None:
            assert job.target.bundle is not None, "asked of bundles only"
            return comparer.missing_from_bundle(self.roots[job.root_id], job.target.bundle)

        return WorkerDeps(
            jitter=self.resources.jitter,
            meter=self.resources.meter,
            api=self.api,
            catalog=catalog,
            transfer=transfer,
            routes=Routes(
                settings.api.single_put_limit,
                credentials=self.credentials,
                api=self.api,
            ),
            reading=reading,
            latest_s=self.resources.latest_s,
            once=self.once,
            hidden=self._hidden,
            path_of=self._path_of,
            expected_of=lambda job: expected_sha256(self.roots[job.root_id].path, job.rel_path),
            lacking=lacking,
            on_moved=lambda job: self._hint(Hint(job.root_id, job.rel_path, HintKind.RESCAN)),
            **self.resources.shared,
        )

    async def _permissions(self) -> str | None:
        credentials = self.credentials
        team_id = credentials.team_id or self.resources.settings.api.team_id
        try:
            return describe_permissions(
                await self.api.me(), team_id if credentials.is_session else None
            )
        except JobError:
            return None

    def _path_of(self, job: Job) -> str:
        return os.path.join(self.roots[job.root_id].path, job.rel_path)

    # -- what is done about records ----------------------------------------------------------------

    def _retirement(self) -> RecordCleanup:
        catalog = self.resources.settings.catalog
        policy = Policy(catalog.on_delete, catalog.delete_grace_s, catalog.delete_most)
        return RecordCleanup(api=self.api, policy=policy, **self.resources.shared)

    def _applier(
        self, comparer: Comparer, catalog: Catalog, retirement: RecordCleanup
    ) -> "Applier":
        from syncd.daemon.apply_plan import Applier  # the daemon applies no plan

        return Applier(
            api=self.api,
            catalog=catalog,
            comparer=comparer,
            retirement=retirement,
            roots=self.roots,
            hidden=self._hidden,
            **self.resources.shared,
        )

    @property
    def _hidden(self) -> bool:
        return self.resources.settings.catalog.register_as == "disabled"

    # -- notifications, control, priority ------------------------------------------------------------------

    def _build_notifier(self) -> WebhookNotifier:
        return WebhookNotifier(
            _receivers(self.resources.settings),
            jitter=self.resources.jitter,
            shown_of=lambda job: self.roots[job.root_id].display_path(job.rel_path),
            **self.resources.shared,
            **network(self.resources.settings),
        )

    def _control(
        self, dispatcher: Dispatcher, transfer: Transfer, sending: Bandwidth, ingester: Ingester
    ) -> ControlContext:
        return ControlContext(
            state_dir=os.fspath(self.resources.settings.state_dir),
            started_at=self.resources.clock.now_ms(),
            meter=self.resources.meter,
            credentials=self.credentials,
            dispatcher=dispatcher,
            transfer=transfer,
            bandwidth=sending,
            settling=ingester.tracker.progress,
            hint=self._hint,
            state_hold=self.callbacks.state_hold,
            unready=self.callbacks.unready,
            watch_mode=self.callbacks.watch_mode,
            **self.resources.shared,
        )

    def _comfyui_throttle(self, sending: Bandwidth, reading: Bandwidth) -> ComfyUIThrottle:
        return ComfyUIThrottle(
            _busy_policy(self.resources.settings),
            sending=sending,
            reading=reading,
            meter=self.resources.meter,
            clock=self.resources.clock,
            ca_bundle=network(self.resources.settings)["ca_bundle"],
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
