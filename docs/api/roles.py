"""A hook of MkDocs: in docstrings names are marked as for Sphinx, which Markdown does not know."""

import re
from typing import Any

ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):(<code>)~?")


def on_page_content(html: str, **unused: Any) -> str:
    """Return a page in which a name is code, without the role before it."""
    return ROLE.sub(r"\1", html)
