"""The description for the package index, which is README.md with absolute links."""

import configparser
import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def with_absolute_links(text: str, repository: str) -> str:
    """Returns Markdown whose links to files of the repository lead there from anywhere."""

    def absolute(link: re.Match) -> str:
        if re.match(r"\w+:|#", link["target"]):
            return link[0]
        kind = "raw" if link["image"] else "blob"
        target = f"{repository}/{kind}/main/{link['target']}"
        return f"{link['image']}[{link['text']}]({target})"

    return LINK.sub(absolute, text)


config = configparser.ConfigParser()
config.read(ROOT / "setup.cfg", encoding="utf-8")
setuptools.setup(
    long_description=with_absolute_links(
        (ROOT / "README.md").read_text(encoding="utf-8"), config["metadata"]["url"]
    ),
    long_description_content_type="text/markdown",
)
