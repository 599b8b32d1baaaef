"""The OpenAPI document is complete, agrees with the routes, and its examples are valid."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from http_api import serving
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import OpenAPIV31SpecValidator

from nodekit import __version__
from nodekit_asgi import Limits
from nodekit_asgi.api.routes import KEYS
from nodekit_asgi.app import OPEN_TO_ALL
from nodekit_asgi.openapi import OPERATIONS, document

METHODS = {"get", "put", "post", "delete"}


def operations(openapi: Any) -> Iterator[tuple[str, Any]]:
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            assert method in METHODS
            yield f"{method.upper()} {path}", operation


def contents(openapi: Any) -> Iterator[tuple[str, Any]]:
    """Yield every body of a request or a reply."""
    for place, operation in operations(openapi):
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
            yield f"{place}: {media_type}", content
        for status, answer in operation["responses"].items():
            for media_type, content in answer.get("content", {}).items():
                yield f"{place}: {status} {media_type}", content


def everything(openapi: Any) -> Iterator[Any]:
    """Yield every object in the document, including examples."""
    if isinstance(openapi, dict):
        yield openapi
    for item in openapi.values() if isinstance(openapi, dict) else openapi if isinstance(openapi, list) else ():
        yield from everything(item)


def misfits(openapi: Any, schema: Any, example: Any) -> list[str]:
    """Return the violations of an example."""
    whole = {**schema, "components": openapi["components"]}
    found = Draft202012Validator(whole, format_checker=FormatChecker()).iter_errors(example)
    return [error.message for error in found]


def test_every_route_is_described_and_nothing_else(openapi: Any) -> None:
    assert set(OPERATIONS) == KEYS
    assert {place for place, _ in operations(openapi)} == {f"{method} {path}" for path, method in KEYS}


def test_it_is_openapi_3_1_of_this_version(openapi: Any) -> None:
    OpenAPIV31SpecValidator(openapi).validate()
    assert openapi["openapi"].startswith("3.1.")
    assert openapi["info"]["version"] == __version__
    assert openapi["info"]["license"]["identifier"] == "Apache-2.0"
    for schema in openapi["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_names_are_those_of_the_api_and_are_all_used(openapi: Any) -> None:
    names = set(openapi["components"]["schemas"])
    assert {"JobRequest", "JobResult", "ContainerOutput", "ContainerError", "ContainerResult", "Error"} <= names
    assert not any(name.startswith("Wire") for name in names)
    text = json.dumps(openapi)
    for name in names:
        assert f'"#/components/schemas/{name}"' in text, name
    for name in openapi["components"]["headers"]:
        if name not in ("Retry-After",):
            assert f'"#/components/headers/{name}"' in text, name


# -- descriptions and examples ------------------------------------------------------------------------


def test_everything_is_described(openapi: Any) -> None:
    for place, operation in operations(openapi):
        assert all((operation["summary"], operation["description"], operation["tags"])), place
        for parameter in operation["parameters"]:
            assert all((parameter["description"], parameter["schema"]["examples"])), f"{place}: {parameter['name']}"
        for status, answer in operation["responses"].items():
            assert all((answer["description"], "X-Request-ID" in answer["headers"])), f"{place}: {status}"
    for name, header in openapi["components"]["headers"].items():
        assert all((header["description"], "example" in header)), name


def test_every_field_is_described(openapi: Any) -> None:
    for name, schema in openapi["components"]["schemas"].items():
        assert schema["description"], name
        assert "\n " not in schema["description"], f"{name}: the page would show that as code"
        for field, described in schema.get("properties", {}).items():
            assert described.get("description") or "$ref" in described, f"{name}.{field}"


def test_every_error_is_json_with_an_example(openapi: Any) -> None:
    for place, operation in operations(openapi):
        errors = {int(status): answer for status, answer in operation["responses"].items() if int(status) >= 400}
        assert {400, 403, 500} <= set(errors), place
        for status, answer in errors.items():
            assert answer["content"]["application/json"]["examples"], f"{place}: {status}"


def test_every_example_is_of_its_schema(openapi: Any) -> None:
    seen = 0
    for place, content in contents(openapi):
        for name, example in content.get("examples", {}).items():
            assert misfits(openapi, content.get("schema", {}), example["value"]) == [], f"{place}: {name}"
            seen += 1
    for place, operation in operations(openapi):
        for parameter in operation["parameters"]:
            for example in parameter["schema"]["examples"]:
                assert misfits(openapi, parameter["schema"], example) == [], f"{place}: {parameter['name']}"
            assert "example" not in parameter, "the page would send it unasked"
    for header in openapi["components"]["headers"].values():
        assert misfits(openapi, header["schema"], header["example"]) == []
    assert seen > 40


def test_every_example_of_a_field_is_of_its_schema(openapi: Any) -> None:
    schemas = [value for value in everything(openapi["components"]["schemas"]) if "examples" in value]
    assert len(schemas) > 20
    for schema in schemas:
        for example in schema["examples"]:
            assert misfits(openapi, schema, example) == [], schema


def test_a_struct_may_be_less_than_its_schema_only_where_the_node_names_what_is_missing(openapi: Any) -> None:
    assert openapi["components"]["schemas"]["JobRequest"]["required"] == ["containers", "data"]


# -- of one node ----------------------------------------------------------------------------------------


def test_it_has_the_limits_of_the_node() -> None:
    text = document(Limits(max_batch=7, max_ids=8, max_steps=9, max_wait_seconds=11), KEYS).decode()
    openapi = json.loads(text)
    body = openapi["paths"]["/api/jobs/batch"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"]["maxItems"] == 7
    parameters = {one["name"]: one for one in openapi["paths"]["/api/jobs"]["get"]["parameters"]}
    assert parameters["id"]["schema"]["maxItems"] == 8
    assert "At most 9 containers" in openapi["paths"]["/api/jobs"]["post"]["description"]
    assert "<max" not in text
    assert "<body" not in text


def test_it_has_the_profile_of_the_node() -> None:
    plain, older = (json.loads(document(Limits(profile=name), KEYS)) for name in ("infernet-0.1", "infernet-1.4"))
    assert "405" not in plain["paths"]["/api/jobs"]["post"]["responses"]
    assert "405" in older["paths"]["/api/jobs"]["post"]["responses"]
    assert "404" in plain["paths"]["/api/jobs"]["get"]["responses"]
    assert "404" not in older["paths"]["/api/jobs"]["get"]["responses"]
    malformed = older["paths"]["/api/jobs"]["post"]["responses"]["400"]
    assert "refused" not in malformed["description"]
    assert "no-containers" not in malformed["content"]["application/json"]["examples"]
    OpenAPIV31SpecValidator(older).validate()


def test_a_node_that_identifies_callers_says_how_and_which_routes_answer_anybody() -> None:
    plain, secured = (json.loads(document(Limits(), KEYS, identifies)) for identifies in (False, True))
    OpenAPIV31SpecValidator(secured).validate()
    assert "security" not in plain
    assert "securitySchemes" not in plain["components"]
    schemes = secured["components"]["securitySchemes"]
    assert secured["security"] == [{name: []} for name in schemes]
    assert (schemes["bearer"]["scheme"], schemes["key"]["name"]) == ("bearer", "X-API-Key")
    for place, operation in operations(secured):
        open_to_all = place.removeprefix("GET ") in OPEN_TO_ALL
        assert operation.get("security", "as all") == ([] if open_to_all else "as all"), place
        assert ("401" in operation["responses"]) is not open_to_all, place
        assert "403" in operation["responses"], place


def test_it_is_made_once() -> None:
    assert document(Limits(), KEYS) is document(Limits(), KEYS)


def test_a_node_that_is_not_asked_does_not_load_it() -> None:
    code = "import sys, nodekit_asgi; print([name for name in sys.modules if 'openapi' in name or name == 'offapi'])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.anyio
async def test_a_node_answers_its_document(openapi: Any) -> None:
    async with serving("hypercorn") as api:
        answer = await api.get("/openapi.json")
        assert (answer.status, answer.json) == (200, openapi)
