"""Gradient checkpointing changes memory and time, and nothing else."""

import torch

from unseg.models import build_surrogate
from unseg.types import Prompts


def test_checkpointed_blocks_give_the_same_logits_and_gradients(monkeypatch):
    torch.manual_seed(0)
    surrogate = build_surrogate("tiny", 32)
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    prompts = Prompts(boxes=torch.tensor([[2.0, 3.0, 20.0, 25.0], [4.0, 4.0, 30.0, 9.0]]))
    runs = 0
    block = type(surrogate.image_encoder)._block

    def counted(*arguments):
        nonlocal runs
        runs += 1
        return block(*arguments)

    monkeypatch.setattr(type(surrogate.image_encoder), "_block", counted)
    found = []
    for is_checkpointed in (False, True):
        surrogate.image_encoder.checkpoint_blocks = is_checkpointed
        surrogate.zero_grad(set_to_none=True)
        logits = surrogate(image, prompts)
        logits.square().sum().backward()
        gradients = {k: p.grad for k, p in surrogate.named_parameters() if p.grad is not None}
        found.append((logits.detach(), gradients))
    depth = len(surrogate.image_encoder.blocks)
    assert runs == depth + 2 * depth, "blocks did not run again in the backward pass"
    (logits, gradients), (other_logits, other_gradients) = found
    assert torch.equal(logits, other_logits)
    assert gradients.keys() == other_gradients.keys()
    for name, gradient in gradients.items():
        assert torch.equal(gradient, other_gradients[name]), name
