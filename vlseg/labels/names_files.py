"""Files of category names, as people have them. What is not certain to be one is refused, never taken for names.

- Text: one name a line, or with an id: "0: wall", "0<tab>wall", "0,wall", "0 wall", "0 -> wall", "(0) wall", or
  "wall,0". Quotation marks around a name and bullets before all of them are no part of names. Blank lines and those
  that begin with # or // do not matter.
- Tables (CSV, TSV) with a heading that has a column for names, and perhaps for ids and colours; ADE20K's objectInfo150,
  of whose synonyms the first is taken; Roboflow's _classes.csv.
- LabelMe's labels.txt: __ignore__, which is no class, and _background_, which is "background" here.
- CVAT's labelmap.txt (name:r,g,b:parts:actions), and lists of names with colours ("64 128 64<tab>animal").
- JSON and YAML: see `structured`.

Ids must count up by one, in whatever order the file has them; the names are in the order of the ids. The text is in
UTF-8, or in UTF-16 with a byte order mark.
"""

import codecs
import csv
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vlseg import files
from vlseg.errors import VocabularyError
from vlseg.labels import structured
from vlseg.labels.names import check_names, shown
from vlseg.labels.structured import Colour, Entry

_MAX_LINE = 10_000
_MAX_BYTES = 32_000_000
_LONGEST = 200
"""Characters of a name: what is longer is a sentence, or another kind of file."""

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_IGNORE, _BACKGROUND = "__ignore__", "_background_"

_NAME_COLUMNS = ("name", "names", "class_name", "classname", "label_name", "category_name", "class", "classes", "label",
                 "labels", "category", "categories")  # fmt: skip
_ID_COLUMNS = ("id", "ids", "idx", "index", "class_id", "classid", "label_id", "labelid", "category_id", "categoryid",
               "pixel_value", "value", "number", "class_index", "train_id", "trainid", "class", "label", "category", "",
               "unnamed:_0")  # fmt: skip
_COLOUR_COLUMNS = (("r", "g", "b"), ("red", "green", "blue"))
_HEX_COLUMNS = ("color", "colour", "hex", "rgb", "color_rgb")


class NamesFile(NamedTuple):
    """What a names file says.

    names: in the order of their ids. first_id: the id of the first, None if the file has no ids. colours: of each name
    its red, green and blue, 0 to 255, None if the file has none.
    """

    names: tuple[str, ...]
    first_id: int | None = None
    colours: tuple[Colour, ...] | None = None


def read_names(path: Path) -> tuple[tuple[str, ...], int | None]:
    """The names in a file, and the id that the file gives the first of them, if it gives ids; see `read_names_file`."""
    found = read_names_file(path)
    return found.names, found.first_id


def read_names_file(path: Path) -> NamesFile:
    """Reads a names file, see above.

    Raises:
        VocabularyError: there is no such file, or it is no list of names for certain; names are missing, blank or there
            twice (in the same case); or ids do not count up by one.
    """
    try:
        return _ordered(_entries(_text(path), Path(path).suffix.lower()), str(path))
    except _Unclear as problem:
        raise VocabularyError(f"{path}: {problem}") from problem


class _Unclear(Exception):
    """What is wrong with a file that has not been named yet."""


def _text(path: Path) -> str:
    files.check_regular(path, VocabularyError)
    if (size := os.path.getsize(path)) > _MAX_BYTES:
        raise _Unclear(f"has {size:,} bytes, which is no list of names")
    content = files.read_regular(path, VocabularyError)
    if content and (kind := files.kind_of(content)):
        raise _Unclear(f"is {kind}")
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding).removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    except UnicodeDecodeError:
        raise _Unclear("is not a text file in UTF-8 (or UTF-16 with its mark): save it as UTF-8") from None
    # Two bytes that look like the mark may begin anything. Text that people write has a line break at least.
    if encoding != "utf-8" and content and not re.search("[\n -~]", text):
        raise _Unclear("is not a text file: after a mark of Unicode it has none of the usual characters")
    if re.search(r"[\0-\x08\x0e-\x1f\x7f]", text):
        raise _Unclear("is not a text file: it has control characters")
    if "\N{REPLACEMENT CHARACTER}" in text:
        raise _Unclear("has characters that were lost when it was written in another encoding: save it anew as UTF-8")
    return text


def _entries(text: str, suffix: str) -> list[Entry]:
    start = text.lstrip()
    if not start.startswith(("{", "[")) and (longest := max(map(len, text.splitlines()), default=0)) > _MAX_LINE:
        raise _Unclear(f"has a line of {longest:,} characters, which is no name")
    try:
        if suffix == ".json" or start.startswith(("{", "[")):
            return structured.from_json(text)
        if suffix in (".yaml", ".yml") or re.search(r"(?m)^names\s*:", text):
            return structured.from_yaml(text)
    except structured.Unclear as problem:
        raise _Unclear(str(problem)) from problem
    if start.startswith("<?xml") or (start.startswith("<") and suffix != ".txt"):
        raise _Unclear("is XML or HTML, not a list of names: give one name a line")
    lines = re.split(r"\r\n|[\r\n\v\f\x85\u2028\u2029]", text)
    headed = any(re.match(r"\s*#\s*label\s*:\s*color", line) for line in lines)
    lines = [line for line in lines if line.strip() and not _COMMENT.match(line)]
    if not lines:
        return []
    if re.fullmatch(r"(?i)\"?sep=.\"?\s*", lines[0]):  # Excel's
        lines = lines[1:]
    stripped = [line.strip() for line in lines]
    found = _colour_map(stripped, headed)
    found = _table(lines, suffix) if found is None else found
    found = _coloured(stripped) if found is None else found
    found = _numbered(stripped) if found is None else found
    return _literal(stripped, suffix) if found is None else found


_COMMENT = re.compile(r"\s*(#(?![0-9A-Fa-f]{6}\b)|//)")
"""Not a colour, with which lines of tables may begin."""


def _colour_map(lines: list[str], headed: bool) -> list[Entry] | None:
    """CVAT's labelmap.txt: name:r,g,b:parts:actions, below a comment that says so."""
    matches = [re.fullmatch(r"(.+?):(\d+),\s*(\d+),\s*(\d+):[^:]*:[^:]*", line) for line in lines]
    if None not in matches:
        return [Entry(match[1], None, _colour(match.groups()[1:])) for match in matches if match]
    if headed:
        broken = lines[matches.index(None)]
        raise _Unclear(f"is a colour map of CVAT whose line {shown(broken)} is not name:r,g,b:parts:actions")
    return None


def _table(lines: list[str], suffix: str) -> list[Entry] | None:
    """A table with a heading; CSV or TSV without one, if it has nothing but names, or ids and names."""
    separators = [mark for mark in "\t,;" if mark in lines[0]] or [","]
    tables = (_rows(lines, mark) for mark in separators)
    rows = next((rows for rows in tables if rows and _column(_keys(rows[0]), _NAME_COLUMNS)), None)
    if rows is None and re.match(r"(?i)\s*idx\s+ratio\s.*\bname\s*$", lines[0]):  # spaces between columns
        heading = lines[0].split()
        rows = [heading, *(line.split(None, len(heading) - 1) for line in lines[1:])]
    is_table = suffix in (".csv", ".tsv")
    if rows is not None and (len(rows[0]) > 1 or is_table):
        return _columns(rows)
    if rows is not None:
        raise _Unclear(f"begins with {lines[0]!r}, which looks like a heading: remove it, or call the file .csv")
    if not is_table:
        return None
    rows = _rows(lines, separators[0])
    if rows is None:
        raise _Unclear("is no table that can be read: a quotation mark is open")
    columns = {len(row) for row in rows}
    if columns == {1}:
        return [Entry(row[0]) for row in rows]
    return _numbered([f"{row[0]},{row[1]}" for row in rows]) if columns == {2} else None


def _rows(lines: Sequence[str], separator: str) -> list[list[str]] | None:
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    try:
        return [[cell.strip() for cell in row] for row in reader]
    except csv.Error:
        return None


def _keys(row: Sequence[str]) -> list[str]:
    return [re.sub(r"[\s-]+", "_", cell.lower()) for cell in row]


def _column(keys: Sequence[str], known: Sequence[str]) -> str:
    return next((name for name in known if name in keys), "")


def _columns(rows: list[list[str]]) -> list[Entry]:
    """The rows of a table below its heading."""
    # Spreadsheets leave empty rows and columns.
    rows = [row for row in rows if any(row)]
    while len(rows[0]) > 1 and not any(row[-1] for row in rows if len(row) == len(rows[0])):
        rows = [row[:-1] if len(row) == len(rows[0]) else row for row in rows]
    keys, body = _keys(rows[0]), rows[1:]
    twice = [key for key in keys if key and keys.count(key) > 1]
    if twice:
        raise _Unclear(f"has two columns called {twice[0]!r}: leave one out")
    wrong = [number for number, row in enumerate(body, start=2) if len(row) != len(keys)]
    if wrong:
        raise _Unclear(
            f"has {len(keys)} columns, but {len(body[wrong[0] - 2])} in row {wrong[0]}: put names with the separator "
            "in quotes"
        )
    cells = {key: [row[index] for row in body] for index, key in enumerate(keys)}
    whole = {key for key in cells if body and all(re.fullmatch(r"\d+", cell) for cell in cells[key])}
    name = _column([key for key in keys if key not in whole], _NAME_COLUMNS)
    if not name:
        raise _Unclear(f"has no column of names among {', '.join(keys)}: call it name")
    numbers = [key for key in keys if key in _ID_COLUMNS and key != name and (key in whole or key not in _NAME_COLUMNS)]
    if len({tuple(cells[key]) for key in numbers}) > 1:
        raise _Unclear(f"has several columns of ids ({', '.join(numbers)}): leave all but one out")
    names = cells[name]
    if {"idx", "ratio"} <= set(keys):  # ADE20K's objectInfo150, whose names are synonyms
        names = [re.split(r"[;,]", text)[0] for text in names]
    ids = [_id(cell) for cell in cells[numbers[0]]] if numbers else [None] * len(names)
    return [Entry(*entry) for entry in zip(names, ids, _table_colours(cells, len(names)), strict=True)]


def _table_colours(cells: dict[str, list[str]], count: int) -> Sequence[Colour | None]:
    for columns in _COLOUR_COLUMNS:
        if set(columns) <= cells.keys():
            return [_colour(parts) for parts in zip(*(cells[key] for key in columns), strict=True)]
    key = _column(list(cells), _HEX_COLUMNS)
    try:
        return [structured.colour(cell) for cell in cells[key]] if key else [None] * count
    except structured.Unclear as problem:
        raise _Unclear(str(problem)) from problem


def _coloured(lines: list[str]) -> list[Entry] | None:
    """Lines of a colour and a name, in either order."""
    number = r"(\d{1,3})"
    before = [re.fullmatch(rf"{number}[\s,]+{number}[\s,]+{number}[\s,:]+(\S.*)", line) for line in lines]
    if None not in before:
        entries = [Entry(unquoted(match[4]), None, _colour(match.groups()[:3])) for match in before if match]
        if any(re.match(r"\d+([\s,]|$)", entry.name) for entry in entries):
            raise _Unclear(f"has lines like {shown(lines[0])}: begin it with a heading such as id,r,g,b,name")
        return entries
    behind = [re.fullmatch(rf"(.*[^\s,:])[\s,:]+{number}[\s,]+{number}[\s,]+{number}", line) for line in lines]
    if None not in behind:
        return [Entry(unquoted(match[1]), None, _colour(match.groups()[1:])) for match in behind if match]
    return None


_MARKED = re.compile(r"[(\[]?(\d+)\s*(?:(?:->|=>|[:=\t,;|\uff1a\uff0c])\s*|[.)\]]\s+|-\s+)(.*)")
_SPACED = re.compile(r"(\d+)\s+(.+)")
_BEHIND = re.compile(r"(.*\D.*?)\s*([:\t,;])\s*(\d+)")


def _numbered(lines: list[str]) -> list[Entry] | None:
    """Lines of ids and names."""
    for pattern in (_MARKED, _SPACED):
        matches = [pattern.fullmatch(line) for line in lines]
        found = [match for match in matches if match]
        first = min((int(match[1][:9]) for match in found), default=0)  # Python refuses thousands of digits
        if None not in matches:
            if pattern is _SPACED and first > 1:
                raise _Unclear(f'has lines like {shown(lines[0])}: write "id: name", or all names in quotes')
            return [Entry(unquoted(match[2]), _id(match[1])) for match in found]
        # With a space between, it may be a name: "4 wheeler".
        if found and (pattern is _MARKED or (matches[0] and first <= 1) or len(found) > len(lines) // 2):
            raise _Unclear(
                f"gives ids to some names ({shown(found[0][0])}) and none to others "
                f"({shown(lines[matches.index(None)])}): give ids to all, or write all names in quotes"
            )
    matches = [_BEHIND.fullmatch(line) for line in lines]
    if None not in matches:
        return [Entry(unquoted(match[1]), _id(match[3])) for match in matches if match]
    marked = [match[0] for match in matches if match and match[2] != ","]
    if marked:
        raise _Unclear(
            f"gives ids to some names ({shown(marked[0])}) and none to others ({shown(lines[matches.index(None)])}): "
            "give ids to all, or write all names in quotes"
        )
    return None


_BULLET = re.compile(r"[-*+\u2022\u2013]\s+(.*)")
_NO_NAME = re.compile(
    r"[\t{}\[\]|<>;]|://|^[#%]|[,=:]$|\s(#|//)|#[0-9a-f]{6}\b|^n\d{8}\b"
    r"|\.(bmp|gif|jpe?g|json|npy|p[bgnp]m|png|tiff?|txt|webp|xml)\b",
    re.IGNORECASE,
)
"""Lists of several things, comments, settings, colours, ids of WordNet, names of files."""


def _literal(lines: list[str], suffix: str) -> list[Entry]:
    """Names that stand alone on their lines. Those in quotes may be anything."""
    if suffix in (".csv", ".tsv"):
        raise _Unclear("is a table without a heading: begin it with a row such as id,name")
    if all(re.match(r"\w+\s*=", line) for line in lines) and any(re.search(r"\s=|=\s|/", line) for line in lines):
        raise _Unclear(f"has settings such as {shown(lines[0])}, not names: give one name a line")
    bullets = [_BULLET.fullmatch(line) for line in lines]
    if None not in bullets:
        lines = [match[1] for match in bullets if match]
    names = list(map(unquoted, lines))
    bare = [line for name, line in zip(names, lines, strict=True) if name == line]
    for line in bare:
        if len(line) > _LONGEST or _NO_NAME.search(line) or not re.search(r"[^\W\d_]", line):
            raise _Unclear(
                f"has a line that looks like no name: {shown(line)}; give one name a line (in quotes, if it is)"
            )
    commas = {len(re.findall("[,\uff0c\u3001]", line)) for line in lines if line in bare}
    if commas and 0 not in commas and (len(commas) == 1 or len(bare) == len(lines) == 1):
        raise _Unclear(
            f"has commas in every line, such as {shown(bare[0])}: put one name on a line (all in quotes, if they have "
            "commas), or begin with a heading such as id,name"
        )
    numbers = [re.match(r"\W*(?:\w+\s)?(\d+)\s*[:=]|\W*(\d+)[\W_]", line) for line in bare]
    if len(bare) == len(lines) > 1 and None not in numbers:
        ids = [int(match[1] or match[2]) for match in numbers if match]
        if [after - before for before, after in itertools.pairwise(ids)] == [1] * (len(ids) - 1):
            raise _Unclear(f'has lines like {shown(bare[0])}: write "id: name", or all names in quotes')
    if re.fullmatch(r"(?i)(the )?(class|category|label)s?( names?| list)?", bare[0] if bare else "") and len(lines) > 1:
        raise _Unclear(f"begins with {bare[0]!r}, which looks like a heading: remove it, or put it in quotes")
    return [Entry(name) for name in names]


def unquoted(text: str) -> str:
    """A name without the blanks around it and the quotation marks around that."""
    text = text.strip()
    match = re.fullmatch(r"""(["'])((?:(?!\1).|\1\1)+)\1|[\u201c\u201e](.+)[\u201d\u201c]""", text)
    if not match:
        return text
    return match[3] or match[2].replace(match[1] * 2, match[1])


def _id(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text):
        raise _Unclear(f"has the id {shown(text)}, which is no number from 0")
    return int(text)


def _colour(parts: Sequence[str]) -> Colour:
    try:
        return structured.colour(",".join(parts))
    except structured.Unclear as problem:
        raise _Unclear(str(problem)) from problem


def _ordered(entries: list[Entry], source: str) -> NamesFile:
    """Entries in the order of their ids, checked."""
    given = [entry.id for entry in entries]
    ids = [number for number in given if number is not None]
    if ids:
        if len(ids) < len(given):
            raise _Unclear("gives ids to some names and none to others")
        entries.sort(key=lambda entry: entry.id or 0)
        ids.sort()
        for before, after in itertools.pairwise(ids):
            if after != before + 1:
                raise _Unclear(
                    f"the ids of the names must count up by one, and {after} follows {before}: number the classes "
                    "anew, in the labels too"
                )
    if entries and entries[0].name == _IGNORE:
        if ids:
            raise _Unclear(f"gives an id to {_IGNORE}, which is no class: leave it out")
        entries = entries[1:]
    names = check_names(without_marks([entry.name for entry in entries], source), source=source, ignore_case=False)
    colours = [entry.colour for entry in entries if entry.colour is not None]
    if colours and len(colours) < len(entries):
        raise _Unclear("gives colours to some names and none to others")
    return NamesFile(names, ids[0] if ids else None, tuple(colours) or None)


def without_marks(names: list[str], source: str) -> list[str]:
    """Names without LabelMe's word for pixels that do not count, and with a plain word for its background.

    Raises:
        VocabularyError: one of the two stands where LabelMe has it not, so that what it means is not certain.
    """
    names = names[1:] if names[:1] == [_IGNORE] else names
    names = ["background", *names[1:]] if names[:1] == [_BACKGROUND] else names
    strange = [name for name in names if name in (_IGNORE, _BACKGROUND)]
    if strange:
        raise VocabularyError(
            f"{source}: has {strange[0]} where LabelMe has it not, which is first: give pixels that do not count no "
            "name"
        )
    return names
