"""Every way in which an upload can be wrong is refused with its reason."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedsim.federated.messages import (
    Contract,
    Rejected,
    UploadLimits,
    read_upload,
)
from tests.federated.test_messages import CONTRACT, LIGHT, same, travelled
from tests.reference.uploads import (
    SETTING,
    WEIGHTS,
    Spoil,
    drop,
    empty_zip,
    first,
    header,
    lying,
    put,
    raw,
    saved,
    upload,
    zeros,
    zipped,
)

DEEP = "[" * 20000

REJECTIONS: dict[str, tuple[Spoil, str]] = {
    "not finite": (
        put("synthetic", images=np.full((4, 1, 6, 6), np.nan, np.float32)),
        "144 pixel values are not finite",
    ),
    "floating images": (put("synthetic", images=zeros(4, 1, 6, 6, dtype=np.float32)), "float32, not uint8"),
    "signed images": (put("synthetic", images=zeros(4, 1, 6, 6, dtype=np.int8)), "int8, not uint8"),
    "short labels": (put("synthetic", labels=zeros(4, dtype=np.int32)), "labels are torch.int32"),
    "floating labels": (put("synthetic", labels=zeros(4, dtype=np.float64)), "labels are torch.float64"),
    "image shape": (put("synthetic", images=zeros(4, 1, 6, 5)), r"image shape is \(1, 6, 5\), not \(1, 6, 6\)"),
    "flat images": (put("synthetic", images=zeros(4, 36)), "image shape is"),
    "fewer labels": (put("synthetic", labels=zeros(3, dtype=np.int64)), r"\(3,\) labels for 4 images"),
    "label too large": (put("synthetic", labels=np.array([0, 1, 2, 4])), "labels reach from 0 to 4, valid are 0 to 3"),
    "label below 0": (put("synthetic", labels=np.array([0, 1, 2, -1])), "labels reach from -1"),
    "one class too often": (put("synthetic", labels=np.array([1, 1, 1, 0])), "3 synthetic images of one class"),
    "too many images": (
        put("synthetic", images=zeros(9, 1, 6, 6), labels=np.arange(9) % 4),
        "9 synthetic images, the agreed budget is 1 to 8",
    ),
    "no images": (put("synthetic", images=zeros(0, 1, 6, 6), labels=zeros(0, dtype=np.int64)), "0 synthetic images"),
    "third tensor": (put("synthetic", more=zeros(1)), r"holds \['images', 'labels', 'more'\]"),
    "no labels": (drop("synthetic", "labels"), r"holds \['images'\]"),
    "no synthetic set": (drop("synthetic"), "upload holds no synthetic"),
    "no weights": (drop("weights"), "upload holds no weights"),
    "no metrics": (drop("metrics"), "upload lacks its description"),
    "no info": (drop("info"), "upload lacks its description"),
    "no examples": (drop("metrics", "examples"), "upload lacks its description"),
    "no losses": (drop("metrics", "losses"), "upload lacks its description"),
    "no round": (drop("info", "round"), "upload lacks its description"),
    "losses as a number": (put("metrics", losses=1.0), "upload lacks its description"),
    "more losses": (put("metrics", losses=[1.0, 2.0]), "upload lacks its description"),
    "iterations nan": (put("metrics", iterations=[float("nan")]), "upload lacks its description"),
    "iterations infinite": (put("metrics", iterations=[float("inf")]), "upload lacks its description"),
    "other round": (put("info", round=3), "upload is of round 3, not 2"),
    "round as text": (put("info", round="2"), "upload is of round 2, not 2"),
    "zero examples": (put("metrics", examples=0), "claims 0 real images"),
    "negative examples": (put("metrics", examples=-4), "claims -4 real images"),
    "fractional examples": (put("metrics", examples=2.5), "claims 2.5 real images"),
    "provenance not JSON": (put("info", provenance="{no"), "provenance is not JSON"),
    "provenance a list": (put("info", provenance="[1]"), "provenance is not"),
    "provenance too deep": (put("info", provenance=DEEP), "provenance is not"),
    "provenance bytes": (put("info", provenance=b"\xff"), "provenance is not"),
    "method not a name": (put("info", provenance=json.dumps({"method": [1] * 9})), "provenance is not"),
    "pickled objects": (put("synthetic", images=raw(saved(np.array([{}]), pickled=True))), "cannot be decoded"),
    "plain pickle": (put("synthetic", images=raw(pickle.dumps([1]))), "cannot be decoded"),
    "noise": (put("synthetic", images=raw(b"\x00\xff noise")), "cannot be decoded"),
    "nothing": (put("synthetic", images=raw(b"")), "cannot be decoded"),
    "cut array": (put("synthetic", images=raw(saved(zeros(4, 1, 6, 6))[:-5])), "cannot be decoded"),
    "cut header": (put("synthetic", images=raw(saved(zeros(4))[:20])), "cannot be decoded"),
    "promises petabytes": (put("synthetic", images=raw(lying(f"({10**15},)"))), "cannot be decoded"),
    "promises the impossible": (put("synthetic", images=raw(lying(f"({10**30},)"))), "cannot be decoded"),
    "negative shape": (put("synthetic", images=raw(lying("(-1,)"))), "cannot be decoded"),
    "zip archive": (put("synthetic", images=raw(zipped())), "cannot be decoded"),
    "empty zip": (put("synthetic", images=raw(empty_zip())), "cannot be decoded"),
    "broken zip": (put("synthetic", images=raw(b"PK\x03\x04 and so on")), "cannot be decoded"),
    "other serialisation": (put("synthetic", images=raw(b"", "torch")), "cannot be decoded"),
    "text": (put("synthetic", images=np.array(["a", "b"])), "cannot be decoded"),
    "times": (put("synthetic", images=np.zeros(4, "datetime64[s]")), "cannot be decoded"),
    "other byte order": (put("synthetic", labels=np.zeros(4, ">i8")), "cannot be decoded"),
    "weights nan": (first(float("nan")), "head.weight: 1 values are not finite"),
    "weights infinite": (first(float("inf")), "head.weight: 1 values are not finite"),
    "weights shape": (first(zeros(4, 3, dtype=np.float32)), r"head.weight is torch.float32\(4, 3\), not"),
    "weights dtype": (first(WEIGHTS["head.weight"].double().numpy()), "head.weight is torch.float64"),
    "unknown weight": (put("weights", more=zeros(1)), "weights are of another network: more missing or unknown"),
    "missing weight": (drop("weights", "head.bias"), "weights are of another network: head.bias"),
}


def test_the_sound_upload_is_accepted() -> None:
    read = read_upload(travelled(upload()), 1, 2, CONTRACT)
    assert same(read.weights, WEIGHTS)
    assert read.examples == 9


@pytest.mark.parametrize("name", REJECTIONS)
def test_rejected_for(name: str) -> None:
    spoil, reason = REJECTIONS[name]
    content = upload()
    spoil(content)
    with pytest.raises(Rejected, match=reason):
        read_upload(travelled(content), 1, 2, CONTRACT)


def test_rejected_for_its_size_before_anything_is_decoded() -> None:
    content = upload()
    content["more"] = ArrayRecord({"x": Array(np.zeros(CONTRACT.bytes, np.uint8))})
    with pytest.raises(Rejected, match=rf"upload of \d+ bytes exceeds the limit of {CONTRACT.bytes}"):
        read_upload(content, 1, 2, CONTRACT)
    with pytest.raises(Rejected, match="exceeds the limit of 100"):
        read_upload(upload(), 1, 2, replace(CONTRACT, bytes=100))


def test_the_sender_is_what_the_server_knows() -> None:
    content = upload()
    content.config_records["info"]["client"] = 77
    read = read_upload(content, 1, 2, CONTRACT)
    assert read.client == 1
    assert read.synthetic is not None
    assert read.synthetic.provenance["client"] == 1


def test_what_was_not_agreed_is_not_read() -> None:
    only_images = Contract.agree(SETTING, 2, None, UploadLimits())
    assert read_upload(upload(), 1, 2, only_images).weights is None
    only_weights = Contract.agree(SETTING, 0, WEIGHTS, UploadLimits())
    assert read_upload(upload(), 1, 2, only_weights).synthetic is None


@LIGHT
@given(
    st.binary(max_size=99) | st.text("{}()[]'\"#\\\n :,1aT", max_size=60).map(header),
    st.sampled_from(["images", "labels"]),
)
def test_any_bytes_are_rejected(content: bytes, name: str) -> None:
    spoilt = upload()
    spoilt.array_records["synthetic"][name] = raw(content)
    with pytest.raises(Rejected):
        read_upload(spoilt, 1, 2, CONTRACT)


def test_empty_records_are_rejected() -> None:
    for content in (RecordDict(), RecordDict({"metrics": MetricRecord(), "info": ConfigRecord()})):
        with pytest.raises(Rejected, match="lacks its description"):
            read_upload(content, 1, 2, CONTRACT)
