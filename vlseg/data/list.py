"""Shows the data sets that are known by name: `python -m vlseg.data.list`."""

from vlseg import cli
from vlseg.data.catalog import ENTRIES, Entry
from vlseg.data.episodes import BENCHMARKS
from vlseg.data.formats import tools


def described(name: str, entry: Entry) -> str:
    """An entry of the catalog, for people."""
    splits = ", ".join(f"{split} {part.examples:,}" for split, part in entry.splits.items())
    lines = [
        f"{name}: {entry.title}, {len(entry.classes.names)} classes",
        f"  splits   {splits}",
        f"  layout   {entry.layout}",
        f"  licence  {entry.licence}",
        f"  address  {entry.address}",
    ]
    return "\n".join(lines)


def main(_: list[str]) -> None:
    """The command."""
    print("\n".join(described(name, entry) for name, entry in ENTRIES.items()))
    print(f"few-shot benchmarks: {', '.join(BENCHMARKS)}")
    print("of one's own: a folder with images/, labels/ and names.txt")
    for usage in tools.USAGE.values():
        print(f"of annotation tools: {usage}")


if __name__ == "__main__":
    cli.run(main)
