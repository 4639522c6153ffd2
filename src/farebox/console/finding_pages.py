"""What a refusal's link leads to: the finding, its meaning and its remedy (ERR-03).

Open to everybody: whoever met the refusal may have no login here, and nothing on the page is of any
tenant.
"""

from __future__ import annotations

from jinja2 import Environment
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from farebox.advice.catalogue import entry_of
from farebox.advice.codes import Code


class FindingPages:
    """Pages of the doctor's catalogue."""

    def __init__(self, environment: Environment) -> None:
        self._template = environment.get_template("finding.html")

    async def show(self, request: Request) -> Response:
        """One finding.

        Raises:
            HTTPException: 404: there is no such code.
        """
        name = request.path_params["code"]
        if name not in Code.__members__:
            raise HTTPException(404)
        code = Code(name)
        return HTMLResponse(self._template.render(code=code.value, entry=entry_of(code)))
