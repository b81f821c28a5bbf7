"""The pack format: a folder with all a device needs to make pictures, and its `pack.json`.

Readable without onnx, torch or ONNX Runtime. Whatever a manifest says is hostile until checked:
paths must stay inside the folder, sizes must match on opening, hashes on `Pack.verify`.
"""

from .finding import builtin_packs_dir, candidates, find_pack, list_packs, scan_packs
from .folder import Pack, PackFolder, check_sizes
from .hashing import file_entry
from .manifest import (
    FORMAT_VERSION,
    LAYER_TABLE,
    MANIFEST_NAME,
    OPTIONAL_FIELDS,
    REQUIRED_ROLES,
    Manifest,
    PackHead,
)
from .parts import (
    ByteCount,
    Defaults,
    FileEntry,
    GraphEntry,
    Growth,
    LatentRgb,
    PackName,
    Pixels,
    Precision,
    RamGrowth,
    RamNeeds,
    RelativePath,
    Rgb,
    Role,
    Sampler,
    SecondTokenizer,
    Sha256,
    Sizes,
    TokenizerEntry,
)
from .reading import (
    MANIFEST_MAX_BYTES,
    ComponentPack,
    HeadT,
    component_kind,
    parse_head,
    read_manifest,
    read_pack_json,
)
from .writing import replace_file, write_manifest

__all__ = [
    "FORMAT_VERSION",
    "LAYER_TABLE",
    "MANIFEST_MAX_BYTES",
    "MANIFEST_NAME",
    "OPTIONAL_FIELDS",
    "REQUIRED_ROLES",
    "ByteCount",
    "ComponentPack",
    "Defaults",
    "FileEntry",
    "GraphEntry",
    "Growth",
    "HeadT",
    "LatentRgb",
    "Manifest",
    "Pack",
    "PackFolder",
    "PackHead",
    "PackName",
    "Pixels",
    "Precision",
    "RamGrowth",
    "RamNeeds",
    "RelativePath",
    "Rgb",
    "Role",
    "Sampler",
    "SecondTokenizer",
    "Sha256",
    "Sizes",
    "TokenizerEntry",
    "builtin_packs_dir",
    "candidates",
    "check_sizes",
    "component_kind",
    "file_entry",
    "find_pack",
    "list_packs",
    "parse_head",
    "read_manifest",
    "read_pack_json",
    "replace_file",
    "scan_packs",
    "write_manifest",
]
