"""
Where ComfyUI searches for models, and which file it loads if several have the same name.

A kind of models has several directories: those below ``models/``, followed (or, with ``is_default``,
preceded) by those of ``extra_model_paths.yaml``. ComfyUI tries them in order and loads the first match. The
other files of that name are shadowed.

See ``folder_paths.py`` and ``utils/extra_config.py`` of ComfyUI.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

PathKey = tuple[int, str]  # the id of a root and a path below it

_TOPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "text_encoders": ("text_encoders", "clip"),
        "diffusion_models": ("unet", "diffusion_models"),
        "controlnet": ("controlnet", "t2i_adapter"),
        **{
            kind: (kind,)
            for kind in (
                "checkpoints", "loras", "vae", "clip_vision", "style_models", "embeddings",
                "diffusers", "vae_approx", "gligen", "upscale_models", "latent_upscale_models",
                "hypernetworks", "photomaker", "classifiers", "model_patches", "audio_encoders",
                "background_removal", "frame_interpolation", "geometry_estimation", "optical_flow",
                "detection",
            )
        },
    }
)  # fmt: skip
"""ComfyUI's built-in kinds with their folders below ``models/``, in search order."""

_KINDS = {top: kind for kind, tops in _TOPS.items() for top in tops}
_OLD_NAMES = {"unet": "diffusion_models", "clip": "text_encoders"}

# Types of extra_model_paths.yaml that do not contain models.
NOT_MODELS = frozenset(("custom_nodes", "configs", "datasets", "fonts"))


@dataclass(frozen=True, slots=True)
class Folder:
    """
    A directory that ``extra_model_paths.yaml`` adds to a kind.

    Args:
        type_key: The type as written there; the ``model_type`` of all files in the directory.
        path: The absolute path as ComfyUI spells it; ``real`` is the path with links resolved.
        is_default: Search this directory before the existing ones.
        top: The folder below ``models/``, if the directory is one of the kind's own.
    """

    type_key: str
    path: str
    real: str
    is_default: bool = False
    top: str | None = None

    @property
    def kind(self) -> str:
        return _OLD_NAMES.get(self.type_key, self.type_key)


def tops_of(kind: str) -> tuple[str, ...]:
    """Return the folders of ``models/`` that belong to *kind*; a custom node's kind has one."""
    return _TOPS.get(kind, (kind,) if _KINDS.get(kind, kind) == kind else ())


@dataclass(frozen=True, slots=True)
class _Place:
    """A directory of a kind: a whole root, or its folder *top*."""

    root_id: int
    top: str = ""

    def path_of(self, name: str) -> PathKey:
        return self.root_id, f"{self.top}/{name}" if self.top else name


class Tree:
    """
    The directories of each kind in search order.

    *folders* are the directories of ``extra_model_paths.yaml`` in order, each with the id of its root
    (unused if the folder is below ``models/``).
    """

    def __init__(self, models_id: int, folders: Sequence[tuple[int, Folder]] = ()) -> None:
        self._models_id = models_id
        self._kind_of = {root_id: folder.kind for root_id, folder in folders if folder.top is None}
        self._places = {
            kind: [_Place(models_id, top) for top in tops] for kind, tops in _TOPS.items()
        }
        for root_id, folder in folders:
            self._add(_Place(models_id, folder.top) if folder.top else _Place(root_id), folder)
        for kind, places in self._places.items():
            # Custom nodes add their folders below models/ after ComfyUI has read the YAML file.
            known = {place.top for place in places if place.root_id == models_id}
            places += [_Place(models_id, top) for top in tops_of(kind) if top not in known]

    def _add(self, place: _Place, folder: Folder) -> None:
        places = self._places.setdefault(folder.kind, [])
        if folder.is_default:
            places[:] = [place, *(other for other in places if other != place)]
        elif place not in places:
            places.append(place)

    def __repr__(self) -> str:
        """Return text that is equal for equal trees, in any process; the digest of the rules has it."""
        return f"Tree({self._places})"

    def kind_and_name(self, root_id: int, rel_path: str) -> tuple[str, str]:
        if root_id != self._models_id:
            return self._kind_of[root_id], rel_path
        top, _, name = rel_path.partition("/")
        return _KINDS.get(top, top), name

    def before(self, root_id: int, rel_path: str) -> list[PathKey]:
        """Return the paths that shadow this path if a file exists there, in search order."""
        candidates = self._candidates(root_id, rel_path)
        return candidates[: candidates.index((root_id, rel_path))]

    def after(self, root_id: int, rel_path: str) -> list[PathKey]:
        """Return the paths that a file at this path shadows."""
        candidates = self._candidates(root_id, rel_path)
        return candidates[candidates.index((root_id, rel_path)) + 1 :]

    def _candidates(self, root_id: int, rel_path: str) -> list[PathKey]:
        kind, name = self.kind_and_name(root_id, rel_path)
        paths = [place.path_of(name) for place in self._places.get(kind, ())]
        return paths if (root_id, rel_path) in paths else [(root_id, rel_path)]
