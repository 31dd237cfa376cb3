"""
Where ComfyUI looks for models, and which file it loads where several have the same name.

ComfyUI knows a model by its kind and its path below a directory of that kind. A kind has several
directories: those below ``models/``, and those of ``extra_model_paths.yaml``, behind them or, marked
``is_default``, in front. They are tried in order, and the first file there is the model; the others
of that name are shadowed.

Told by ``folder_paths.py`` and ``utils/extra_config.py`` of ComfyUI.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

PathKey = tuple[int, str]
"""A root's id and a path below it."""

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
"""The kinds that ComfyUI itself has, each with its folders below ``models/`` in their order."""

_KINDS = {top: kind for kind, tops in _TOPS.items() for top in tops}
_OLD_NAMES = {"unet": "diffusion_models", "clip": "text_encoders"}

NOT_MODELS = frozenset(("custom_nodes", "configs", "datasets", "fonts"))
"""Types of extra_model_paths.yaml that name no models."""


@dataclass(frozen=True, slots=True)
class Folder:
    """
    A directory that ``extra_model_paths.yaml`` adds to a kind.

    Args:
        type_key: The type as it is written there; ``model_type`` of all files in it.
        path: As ComfyUI spells it, absolute.
        real: The same without links.
        is_default: It comes before those that the kind has already.
        top: The folder of ``models/`` that it is, if it is one of this kind's.
    """

    type_key: str
    path: str
    real: str
    is_default: bool = False
    top: str | None = None

    @property
    def kind(self) -> str:
        """What ComfyUI calls the type today."""
        return _OLD_NAMES.get(self.type_key, self.type_key)


def tops_of(kind: str) -> tuple[str, ...]:
    """The folders of ``models/`` that belong to *kind*; a kind of a custom node has one."""
    return _TOPS.get(kind, (kind,) if _KINDS.get(kind, kind) == kind else ())


@dataclass(frozen=True, slots=True)
class _Place:
    """A directory of a kind: a whole root, or the folder *top* of one."""

    root_id: int
    top: str = ""

    def path_of(self, name: str) -> PathKey:
        return self.root_id, f"{self.top}/{name}" if self.top else name


class Tree:
    """
    The directories of each kind, in the order in which ComfyUI tries them.

    Args:
        models_id: The root that is ``models/`` itself.
        folders: What ``extra_model_paths.yaml`` adds, in its order, each with the id of its root
            (of no meaning where the folder is one of ``models/``).
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
            # Custom nodes add theirs below models/ when they are loaded, after the YAML was read.
            known = {place.top for place in places if place.root_id == models_id}
            places += [_Place(models_id, top) for top in tops_of(kind) if top not in known]

    def _add(self, place: _Place, folder: Folder) -> None:
        places = self._places.setdefault(folder.kind, [])
        if folder.is_default:
            places[:] = [place, *(other for other in places if other != place)]
        elif place not in places:
            places.append(place)

    def __repr__(self) -> str:
        return f"Tree({self._places})"

    def kind_and_name(self, root_id: int, rel_path: str) -> tuple[str, str]:
        """How ComfyUI calls the model at a path."""
        if root_id != self._models_id:
            return self._kind_of[root_id], rel_path
        top, _, name = rel_path.partition("/")
        return _KINDS.get(top, top), name

    def before(self, root_id: int, rel_path: str) -> list[PathKey]:
        """Where a file would be loaded instead of the one at this path, the first of all first."""
        alike = self._alike(root_id, rel_path)
        return alike[: alike.index((root_id, rel_path))]

    def after(self, root_id: int, rel_path: str) -> list[PathKey]:
        """What is not loaded while there is a file at this path."""
        alike = self._alike(root_id, rel_path)
        return alike[alike.index((root_id, rel_path)) + 1 :]

    def _alike(self, root_id: int, rel_path: str) -> list[PathKey]:
        """All paths that ComfyUI would look at for the model of this one, this one among them."""
        kind, name = self.kind_and_name(root_id, rel_path)
        paths = [place.path_of(name) for place in self._places.get(kind, ())]
        return paths if (root_id, rel_path) in paths else [(root_id, rel_path)]
