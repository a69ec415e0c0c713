"""How a model is loaded: what is named wins over what a model card says, even if it is the default."""

from __future__ import annotations

from zoetrope.model.request.load_options import LoadOptions

CARD = LoadOptions(quantize="fp8", offload="always", profile="lightx2v-4", vae="/a")


def test_what_is_left_open_is_the_cards() -> None:
    assert LoadOptions().over(CARD) == CARD
    assert LoadOptions(vae="/b", offload="never").over(CARD) == LoadOptions("", "fp8", (), "lightx2v-4", "never", "/b")


def test_a_default_that_is_named_wins() -> None:
    named = LoadOptions(given=("quantize", "offload")).over(CARD)
    assert (named.quantize, named.offload, named.profile, named.vae) == ("none", "auto", "lightx2v-4", "/a")


def test_how_options_were_given_does_not_make_them_others() -> None:
    assert LoadOptions(given=("quantize",)) == LoadOptions()
    assert len({LoadOptions(given=("quantize",)), LoadOptions()}) == 1
