"""What nodes work with: packs by checkpoint names, pictures of the input folder, this device's bounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import TypeVar

from ..component import Component, Kind, pick, scan_components
from ..errors import BadRequest, UnknownPack
from ..pack import Pack, scan_packs
from ..settings import LimitSettings
from .clipvision import ClipVision
from .control import ControlNet
from .embeddings import EmbeddingFolder
from .graphtimes import Pace
from .imageprompt import IpAdapter
from .lora.files import file_within, find_lora
from .memorychoice import MemoryChoice, memory_for, memory_for_any
from .providers import ProviderChoice, choose_provider
from .stages import Stages
from .upscaling import Upscaler

ANY_CHECKPOINT = "*"
Helper = Upscaler | ControlNet | ClipVision | IpAdapter
HelperT = TypeVar("HelperT", Upscaler, ControlNet, ClipVision, IpAdapter)


class Workbench:
    """Not thread-safe. Nothing is loaded before `stages`.

    Args:
        pack_folders: where packs are installed, searched in order.
        checkpoints: checkpoint name -> pack name; `*` stands for every name not otherwise known.
        input_dir: where LoadImage finds pictures.
        lora_dir: where LoraLoader finds its files; None: a folder `loras` beside the input folder.
        embedding_dir: where prompts find embeddings; None: a folder `embeddings` beside the input folder.
        operators: whose, as `choose_provider` is told.
        memory: mode, `auto` or one of `memory.MODES`; chosen for each pack when its stages are made.
    """

    def __init__(
        self,
        pack_folders: Iterable[Path],
        checkpoints: Mapping[str, str],
        input_dir: Path,
        limits: LimitSettings,
        provider: str | ProviderChoice = "auto",
        threads: int = 0,
        memory: str = "auto",
        lora_dir: Path | None = None,
        embedding_dir: Path | None = None,
        operators: str = "auto",
    ):
        self.limits = limits
        self.input_dir = input_dir
        self.lora_dir = lora_dir or input_dir.with_name("loras")
        self.embeddings = EmbeddingFolder(embedding_dir or input_dir.with_name("embeddings"))
        self._pack_folders = tuple(pack_folders)
        self._packs, self._broken = scan_packs(self._pack_folders)
        self._checkpoints = dict(checkpoints)
        self._provider = provider
        self._operators = operators
        self._threads = threads
        self._memory = memory
        self._stages: dict[str, Stages] = {}
        self._components = scan_components(self._pack_folders)
        self._helpers: dict[tuple[str, str], Helper] = {}

    def pack_for(self, checkpoint: str) -> Pack:
        """The pack a checkpoint's name stands for: by the mapping, else the pack of that name, with or
        without folder and suffix, else the mapping's `*`.

        Raises:
            UnknownPack: none; says how to name one.
            PackError: that pack is broken.
        """
        packs = {pack.name: pack for pack in self._packs}
        stem = PurePosixPath(checkpoint.replace("\\", "/")).stem
        wanted = self._checkpoints.get(checkpoint)
        candidates = [wanted] if wanted else [checkpoint, stem, self._checkpoints.get(ANY_CHECKPOINT)]
        for name in candidates:
            if name in packs:
                return packs[name]
        for folder, err in self._broken.items():
            if folder.name in candidates:
                raise err
        raise UnknownPack(self._unknown(checkpoint, wanted, list(packs)))

    def stages(self, pack: Pack) -> Stages:
        """The pack's stages, made once. Raises PackError, ProviderError, OutOfMemory."""
        if pack.name not in self._stages:
            memory = memory_for_any(pack.manifest, self._chosen(), self._memory)
            found = Stages(pack, self._chosen(), self._threads, memory.mode, self.embeddings)
            self._stages[pack.name] = found
        return self._stages[pack.name]

    def component_for(self, kind: Kind, file: str) -> Component:
        """The component a file's name stands for: by the mapping of checkpoints, else the one of that name,
        with or without folder and suffix. Raises UnknownPack, and PackError when it is broken or another."""
        found, broken = self._components
        stem = PurePosixPath(file.replace("\\", "/")).stem
        wanted = self._checkpoints.get(file) or (file if file in {c.name for c in found} else stem)
        component = pick(wanted, found, broken)
        if component.manifest.kind != kind:
            raise UnknownPack(f"pack {component.name} is no {kind} but of kind {component.manifest.kind}")
        return component

    def upscaler(self, component: Component) -> Upscaler:
        """Made once, as are the others. Raises ProviderError."""
        return self._helper(Upscaler, component)

    def controlnet(self, component: Component) -> ControlNet:
        return self._helper(ControlNet, component)

    def clip_vision(self, component: Component) -> ClipVision:
        return self._helper(ClipVision, component)

    def ip_adapter(self, component: Component) -> IpAdapter:
        return self._helper(IpAdapter, component)

    def _helper(self, kind: type[HelperT], component: Component) -> HelperT:
        known = self._helpers.get((kind.__name__, component.name))
        if not isinstance(known, kind) or known.component != component:
            known = kind(component, self._chosen(), self._threads)
            self._helpers[kind.__name__, component.name] = known
        return known

    def memory_of(self, pack: Pack, size: tuple[int, int] | None = None) -> MemoryChoice:
        """The memory mode that its stages would get now, for pictures of that size in pixels (None: the
        pack's own). Raises ProviderError, OutOfMemory."""
        return memory_for(pack.manifest, self._chosen(), self._memory, size)

    def pace(self) -> Pace:
        """How long the graphs took of all packs that are loaded, and of what helps them."""
        parts = (*self._stages.values(), *self._helpers.values())
        return {key: s for part in parts for key, s in part.pace().items()}

    def look_again(self) -> None:
        """Packs may have been installed, replaced or removed; graphs of those that changed are freed."""
        before = {pack.name: pack for pack in self._packs}
        self._packs, self._broken = scan_packs(self._pack_folders)
        now = {pack.name: pack for pack in self._packs}
        self.close(keep=[name for name, pack in now.items() if before.get(name) == pack])
        self._components = scan_components(self._pack_folders)

    def provider_name(self) -> str:
        """Where its graphs run. Raises ProviderError."""
        return self._chosen().name

    def _chosen(self) -> ProviderChoice:
        if isinstance(self._provider, str):
            self._provider = choose_provider(self._provider, operators=self._operators)
        return self._provider

    def size_problem(self, width: int, height: int) -> str | None:
        """Why a picture may not be as large here, or None."""
        most = self.limits.side
        if 1 <= width <= most and 1 <= height <= most:
            return None
        return f"{width}x{height} is not allowed here: sides are 1 to {most} (limits.side)"

    def input_file(self, name: str) -> Path:
        """The file of a name in the input folder; ComfyUI's mark ` [input]` may follow.

        Raises BadRequest: no such file, or one outside.
        """
        path = file_within(self.input_dir, name.removesuffix(" [input]"))
        if path is None:
            raise BadRequest(f"no picture of that name in {self.input_dir}")
        return path

    def lora_file(self, name: str) -> Path:
        """The file of a LoRA's name, with or without its suffix. Raises BadRequest: none, or one outside."""
        return find_lora(self.lora_dir, name)

    def close(self, keep: Iterable[str] = ()) -> None:
        """Free all graphs but those packs'; safe to call twice."""
        for name in set(self._stages) - set(keep):
            self._stages.pop(name).close()
        for helper in self._helpers.values():  # results of earlier runs may hold them: they stay known
            helper.close()

    def _unknown(self, checkpoint: str, wanted: str | None, installed: list[str]) -> str:
        names = ", ".join(installed) or "none"
        if wanted:
            return f"stands for pack {wanted!r} (workflow.checkpoints), not installed; there are {names}"
        stem = PurePosixPath(checkpoint).stem
        near = get_close_matches(stem, installed, 1) or get_close_matches(checkpoint, self._checkpoints, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        example = f'workflow.checkpoints = ["{checkpoint[:60]}=PACK"]'
        return f"stands for no pack here: {hint}Say which with {example}; installed are {names}"
