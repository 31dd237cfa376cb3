"""What is no part of the cloud: its history, records, objects and faults, under ``/_sandbox``."""

import json
from collections.abc import Callable
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from syncd.sandbox.accounts import Accounts
from syncd.sandbox.answers import ApiRefusal
from syncd.sandbox.cloud import Cloud
from syncd.sandbox.faults import Faults, Rule
from syncd.sandbox.history import History


def inspection_routes(
    cloud: Cloud,
    accounts: Accounts,
    history: History,
    faults: Faults,
    sizes: Callable[[], dict[str, int]],
    sha256_of: Callable[[str], str],
) -> list[Route]:
    """Routes whose names begin with ``_``, so that they stay out of history and faults."""

    def show_history(request: Request) -> Response:
        after = int(request.query_params.get("after", 0))
        return JSONResponse([asdict(e) for e in history.entries() if e.seq > after])

    def show_records(request: Request) -> Response:
        return JSONResponse([asdict(record) for record in cloud.records()])

    def show_objects(request: Request) -> Response:
        return JSONResponse([{"storage_key": k, "size": size} for k, size in sizes().items()])

    def show_object(request: Request) -> Response:
        key = request.path_params["key"]
        if key not in sizes():
            return JSONResponse({"error_message": "no such object"}, 404)
        return JSONResponse({"storage_key": key, "size": sizes()[key], "sha256": sha256_of(key)})

    async def change_faults(request: Request) -> Response:
        if request.method == "DELETE":
            faults.clear()
        if request.method == "POST":
            try:
                document = json.loads(await request.body())
                faults.add(*(Rule.of(rule) for rule in document["rules"]))
            except (ValueError, TypeError, KeyError) as error:
                return JSONResponse({"error_message": str(error)}, 422)
        return JSONResponse({"rules": [asdict(rule) for rule in faults.rules()]})

    def approve(request: Request) -> Response:
        try:
            said = request.query_params
            accounts.confirm_pairing(said.get("user_code", ""), said.get("team_id"))
        except ApiRefusal as refusal:
            return PlainTextResponse(str(refusal), refusal.status)
        return PlainTextResponse("Approved. The device gets its key at its next poll.")

    return [
        Route("/_sandbox/history", show_history, name="_history"),
        Route("/_sandbox/records", show_records, name="_records"),
        Route("/_sandbox/objects", show_objects, name="_objects"),
        Route("/_sandbox/objects/{key:path}", show_object, name="_object"),
        Route("/_sandbox/faults", change_faults, methods=["GET", "POST", "DELETE"], name="_faults"),
        Route("/_sandbox/approve", approve, name="_approve"),
    ]
