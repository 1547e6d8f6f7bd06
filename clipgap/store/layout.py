"""Which files make up a store, in which order, and which key file belongs to which shard.

Only names are looked at here. A problem does not stop the search: it is noted, so that the user
hears of all of them at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from clipgap.errors import InputError
from clipgap.files.naming import Part, gaps, natural, show_runs, split_number
from clipgap.files.volumes import File, Listing, Volume, is_absolute, volume_of
from clipgap.store.catalogue import EMBEDDINGS, KEY_COLUMN, KEYS, STORE_FILE, read_catalogue
from clipgap.store.finding import Chosen, find_files, split_path, stem_of

_IMAGE_FOLDERS = {"img_emb": "clip-retrieval", "images": "clip-ood"}


@dataclass(frozen=True)
class Piece:
    """The files of one shard."""

    file: File
    keys: File | None = None
    promised: tuple[int, int] | None = None  # rows and dim, where a catalogue says so

    @property
    def stem(self) -> str:
        return stem_of(self.file.path)


@dataclass
class Layout:
    """One part of a store: its format, its shards in order, and what is wrong with their names."""

    format: str
    pieces: list[Piece]
    problems: list[str] = field(default_factory=list)
    key_column: str | None = None  # None: keys of fixed width, or no keys


def find_layout(part: Part) -> Layout:
    """Find the files that a part of a store's name means."""
    volume, path = volume_of(part.path)
    if part.options.dim is not None:
        return _raw(volume, path, part)
    found = find_files(volume, path)
    if found is not None:
        layout = _listed(volume, found.files, found.how)
        layout.problems = found.problems + layout.problems
        return layout
    listing = volume.listing(path)
    if listing is None:
        raise InputError(f"{path}: there is no such file or folder")
    return _folder(volume, path.rstrip("/") or "/", listing)


def _raw(volume: Volume, path: str, part: Part) -> Layout:
    file = volume.file(path)
    if file is None:
        raise InputError(f"{path}: there is no such file (?dim= names a single raw memmap)")
    if part.options.paths is None:
        return Layout("semdedup", [Piece(file)])
    wanted = part.options.paths
    if not is_absolute(wanted):
        wanted = _join(split_path(path)[0], wanted)
    keys_volume, wanted = volume_of(wanted)
    keys = keys_volume.file(wanted)
    if keys is None:
        raise InputError(f"{wanted}: there is no such file; paths= of {path} names it")
    return Layout("semdedup", [Piece(file, keys)])


def _folder(volume: Volume, path: str, listing: Listing) -> Layout:
    """Recognise a folder; a folder that could be read in two ways is refused."""
    if STORE_FILE in listing.files:
        return _own(volume, path, listing.files[STORE_FILE])
    seen: dict[str, Layout] = {}
    for name in _IMAGE_FOLDERS:
        if name in listing.folders:
            inside = volume.listing(_join(path, name))
            arrays = _with_suffix(inside.files, ".npy") if inside else []
            arrays = [file for file in arrays if _is_image_shard(file)]
            if arrays:
                seen[f"{name}/img_emb_*.npy"] = _listed(volume, arrays, "folder")
    for suffix in (".npy", ".npz"):
        if arrays := _with_suffix(listing.files, suffix):
            seen[f"*{suffix}"] = _listed(volume, arrays, "folder", listing)
    if len(seen) > 1:
        raise InputError(
            f"{path}: could be read in {len(seen)} ways, since it holds {' and '.join(seen)}. "
            "Name the files that are meant, for example "
            f"'{_join(path, next(iter(seen)))}'"
        )
    if not seen:
        raise InputError(_nothing_known(path, listing))
    return next(iter(seen.values()))


def _nothing_known(path: str, listing: Listing) -> str:
    if {EMBEDDINGS, KEYS} <= listing.folders:
        return (
            f"{path}: has {EMBEDDINGS}/ and {KEYS}/ but no {STORE_FILE}, which is written last: "
            "the store was never finished. Write it again."
        )
    names = sorted([*listing.files, *(f"{name}/" for name in listing.folders)])
    held = ", ".join(names[:8]) + (f", … ({len(names):,} in all)" if len(names) > 8 else "")
    return (
        f"{path}: holds no embeddings that are known. It holds: {held or 'nothing'}. Known are "
        f"img_emb/img_emb_N.npy, images/img_emb_N.npy, NAME.npz, NAME.npy and {STORE_FILE}; "
        "a raw float32 memmap is named as FILE?dim=D."
    )


def _listed(
    volume: Volume, files: list[File], how: Chosen, beside: Listing | None = None
) -> Layout:
    """Files of one kind that were named, matched by a glob or found in a folder.

    A folder must hold the numbers 0 to n without a gap. A glob may start and end anywhere, but
    img_emb_N.npy must not have a gap in between. What is written out is taken as it is.
    """
    suffixes = {_suffix(file) for file in files}
    if len(suffixes) > 1 or not suffixes <= {".npy", ".npz"}:
        raise InputError(
            f"{files[0].path}: expected .npy or .npz files, found {', '.join(sorted(suffixes))}. "
            "A raw float32 memmap is named as FILE?dim=D."
        )
    if suffixes == {".npz"}:
        return _datacomp(volume, files, how, beside)
    if all(map(_is_image_shard, files)):
        return _clip_retrieval(volume, files, how)
    if how != "written out" and any(map(_is_image_shard, files)):
        other = next(file for file in files if not _is_image_shard(file))
        raise InputError(
            f"{other.path}: lies among img_emb_N.npy files, and it is unclear whether it is meant; "
            f"name the files, for example '{_join(split_path(other.path)[0], 'img_emb_*.npy')}'"
        )
    problems = _order(files, from_zero=True) if how == "folder" else []
    if beside is not None and (others := _with_suffix(beside.files, ".parquet")):
        problems.append(
            f"{others[0].path}: it is unclear what this belongs to; beside NAME.npy files no "
            "parquet is expected. Name the arrays as a glob ('…/*.npy') to leave it aside."
        )
    return Layout("npy", [Piece(file) for file in files], problems)


def _clip_retrieval(volume: Volume, files: list[File], how: Chosen) -> Layout:
    """img_emb_N.npy, with metadata_N.parquet in ../metadata or beside it; N in any padding."""
    problems = []
    if how != "written out":
        problems = _order(files, from_zero=how == "folder")
    folder_name = split_path(split_path(files[0].path)[0])[1]
    pieces: list[Piece] = []
    metadata = {
        folder: _metadata(volume, folder)
        for folder in dict.fromkeys(split_path(file.path)[0] for file in files)
    }
    for file in files:
        folder = split_path(file.path)[0]
        numbers = metadata[folder]
        if numbers is None:
            pieces.append(Piece(file))
            continue
        number = _number_of(file)
        candidates = numbers.get(number, [])
        if len(candidates) != 1:
            what = "no" if not candidates else "more than one"
            problems.append(f"{file.path}: {what} metadata_{number}.parquet belongs to it")
        pieces.append(Piece(file, candidates[0] if candidates else None))
    if how == "folder" and (numbers := metadata[split_path(files[0].path)[0]]) is not None:
        embedded = {_number_of(file) for file in files}
        for number in sorted(set(numbers) - embedded):
            problems.append(f"{numbers[number][0].path}: no img_emb_{number}.npy belongs to it")
    return Layout(_IMAGE_FOLDERS.get(folder_name, "clip-retrieval"), pieces, problems, "image_path")


def _metadata(volume: Volume, folder: str) -> dict[int, list[File]] | None:
    """The metadata files for the arrays of a folder, by number; None if there are none at all."""
    parent, name = split_path(folder)
    places = [folder] if name not in _IMAGE_FOLDERS else [_join(parent, "metadata"), folder]
    for place in places:
        listing = volume.listing(place or ".")
        if listing is None:
            continue
        numbers: dict[int, list[File]] = {}
        for file in _with_suffix(listing.files, ".parquet"):
            split = split_number(Piece(file).stem)
            if split and split[0] == "metadata_":
                numbers.setdefault(split[1], []).append(file)
        if numbers:
            return numbers
    return None


def _datacomp(volume: Volume, files: list[File], how: Chosen, beside: Listing | None) -> Layout:
    """NAME.npz with NAME.parquet beside it."""
    problems = _order(files, from_zero=True) if how == "folder" else []
    folders = dict.fromkeys(split_path(file.path)[0] for file in files)
    listings = {
        folder: beside if beside is not None else volume.listing(folder or ".")
        for folder in folders
    }
    pieces = []
    for file in files:
        folder, name = split_path(file.path)
        listing = listings[folder]
        wanted = name.removesuffix(".npz") + ".parquet"
        keys = listing.files.get(wanted) if listing else None
        pieces.append(Piece(file, keys))
    if any(piece.keys for piece in pieces):
        problems += [f"{p.file.path}: no {p.stem}.parquet beside it" for p in pieces if not p.keys]
    if how == "folder" and beside is not None:
        stems = {piece.stem for piece in pieces}
        for parquet in _with_suffix(beside.files, ".parquet"):
            if Piece(parquet).stem not in stems:
                problems.append(f"{parquet.path}: no {Piece(parquet).stem}.npz beside it")
    return Layout("datacomp", pieces, problems, "uid")


def _own(volume: Volume, path: str, file: File) -> Layout:
    """A store of our own: its catalogue lists every shard."""
    catalogue = read_catalogue(file)
    arrays = _files_of(volume, _join(path, EMBEDDINGS))
    tables = _files_of(volume, _join(path, KEYS))
    pieces, problems = [], []
    for shard in catalogue.shards:
        array = arrays.get(f"{shard.name}.npy")
        keys = tables.get(f"{shard.name}.parquet") if catalogue.keys else None
        if array is None:
            problems.append(f"{path}/{EMBEDDINGS}/{shard.name}.npy: missing, {STORE_FILE} lists it")
        else:
            pieces.append(Piece(array, keys, (shard.rows, catalogue.dim)))
        if catalogue.keys and keys is None:
            problems.append(f"{path}/{KEYS}/{shard.name}.parquet: missing, {STORE_FILE} lists it")
    listed = {shard.name for shard in catalogue.shards}
    problems += [
        f"{array.path}: not listed in {STORE_FILE}"
        for array in _with_suffix(arrays, ".npy")
        if Piece(array).stem not in listed
    ]
    return Layout("clipgap", pieces, problems, KEY_COLUMN)


def _order(files: list[File], *, from_zero: bool) -> list[str]:
    """Sort files by number, in place; name the numbers that are missing or there twice.

    Files of one folder are a sequence if all have the same prefix before their number. Where no
    two share one, they are only sorted, since nothing tells what would be missing. A single
    img_emb_N.npy is a sequence by its name.
    """
    files.sort(key=lambda file: natural(file.path))
    folders: dict[str, list[File]] = {}
    for file in files:
        folders.setdefault(split_path(file.path)[0], []).append(file)
    return [
        problem
        for folder, members in folders.items()
        for problem in _sequence_problems(folder, members, from_zero)
    ]


def _sequence_problems(folder: str, files: list[File], from_zero: bool) -> list[str]:
    suffix = _suffix(files[0])
    splits = [split_number(Piece(file).stem) for file in files]
    numbered = [split for split in splits if split]
    prefixes = Counter(prefix for prefix, _ in numbered)
    prefix, members = prefixes.most_common(1)[0] if prefixes else ("", 0)
    if members < 2 and not all(map(_is_image_shard, files)):
        return []
    if members < len(files):
        other = next(
            file
            for file, split in zip(files, splits, strict=True)
            if not split or split[0] != prefix
        )
        return [
            f"{folder}: holds {prefix}N{suffix} and also {split_path(other.path)[1]}; "
            f"name what is meant, for example '{_join(folder, prefix)}*{suffix}'"
        ]
    counts = Counter(number for _, number in numbered)
    pattern = _join(folder, f"{prefix}N{suffix}")
    problems = [f"{pattern}: number {n} is there twice" for n, count in counts.items() if count > 1]
    first = 0 if from_zero else min(counts)
    if missing := gaps(sorted(counts), first):
        problems.append(
            f"{pattern}: of the numbers {first:,} to {max(counts):,} these are missing: "
            f"{show_runs(missing)}. To use only what is there, name the files with braces or '::'."
        )
    return problems


def _files_of(volume: Volume, path: str) -> Mapping[str, File]:
    listing = volume.listing(path)
    return listing.files if listing else {}


def _with_suffix(files: Mapping[str, File], suffix: str) -> list[File]:
    return [
        files[name]
        for name in sorted(files, key=natural)
        if name.endswith(suffix) and not name.startswith(".")
    ]


def _suffix(file: File) -> str:
    name = split_path(file.path)[1]
    return name[name.rfind(".") :] if "." in name else "no suffix"


def _is_image_shard(file: File) -> bool:
    split = split_number(Piece(file).stem)
    return split is not None and split[0] == "img_emb_" and _suffix(file) == ".npy"


def _number_of(file: File) -> int:
    split = split_number(Piece(file).stem)
    assert split is not None, "only called on names that end in a number"
    return split[1]


def _join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if folder else name
