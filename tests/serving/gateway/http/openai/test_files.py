"""OpenAI's files, at addresses that Replicate's API has too."""

from __future__ import annotations

import httpx
import openai
import pytest

from tests.serving.gateway.harness import Service
from tests.serving.gateway.http.samples import picture

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API is scheduled:DeprecationWarning")


def test_a_file_from_upload_to_deletion(service: Service, sdk: openai.OpenAI) -> None:
    made = sdk.files.create(file=("a.png", picture(seed=1), "image/png"), purpose="vision")
    assert (made.object, made.filename, made.bytes) == ("file", "a.png", len(picture(seed=1)))
    assert (made.purpose, made.status) == ("vision", "processed")
    assert made.expires_at is not None and made.expires_at > made.created_at
    found = sdk.files.retrieve(made.id)
    assert (found.id, found.bytes, found.created_at) == (made.id, made.bytes, made.created_at)
    assert sdk.files.content(made.id).read() == picture(seed=1)
    video = sdk.videos.create(prompt="it turns", extra_body={"input_reference": {"file_id": made.id}})
    assert service.job(video.id).spec["task"]["image"] == made.id
    assert sdk.videos.delete(video.id).deleted
    deleted = sdk.files.delete(made.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (made.id, "file", True)
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.files.retrieve(made.id)
    assert caught.value.body == {
        "message": f"file_id: 'media/{made.id}' is not a known file that is ready",
        "type": "invalid_request_error",
        "param": "file_id",
        "code": "file_not_found",
    }


def test_pages_of_files(sdk: openai.OpenAI) -> None:
    made = [sdk.files.create(file=("a.png", picture(seed=seed)), purpose="user_data").id for seed in range(3)]
    first = sdk.files.list(limit=2)
    assert [file.id for file in first.data] == made[:0:-1] and first.has_more
    assert [file.id for file in sdk.files.list(limit=2)][:3] == made[::-1], "the SDK follows the pages"


def test_each_client_gets_its_own_shape(web: httpx.Client) -> None:
    upload = {"content": ("a.png", picture(seed=2), "image/png")}
    theirs = web.post("/v1/files", files=upload)
    assert (theirs.status_code, theirs.json()["content_type"]) == (201, "image/png")
    address = f"/v1/files/{theirs.json()['id']}"
    agent = {"user-agent": "OpenAI/JS 7.59.0"}
    assert set(web.get(address).json()) == set(theirs.json())
    assert web.get(address, headers=agent).json()["object"] == "file"
    assert set(web.get("/v1/files").json()) == {"previous", "next", "results"}
    assert web.get("/v1/files", headers=agent).json()["object"] == "list"
    assert web.delete(address).status_code == 204


@pytest.mark.parametrize(
    ("form", "file", "param"),
    [
        ({"purpose": "vision"}, ("a.txt", b"no picture"), "file"),
        ({"purpose": "vision", "expires_after[seconds]": "3600"}, ("a.png", picture()), "expires_after[seconds]"),
        ({"purpose": "x" * 65}, ("a.png", picture()), "purpose"),
        ({}, ("a.png", bytes(100_001)), "file"),
    ],
)
def test_a_bad_upload_is_refused(web: httpx.Client, form: dict[str, str], file: tuple[str, bytes], param: str) -> None:
    answer = web.post("/v1/files", data=form, files={"file": file})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_bad_paging_is_refused(web: httpx.Client) -> None:
    for query, param in (("order=asc", "order"), ("limit=0", "limit"), ("after=med_none", "after")):
        assert web.get(f"/v1/files?{query}").json()["error"]["param"] == param
