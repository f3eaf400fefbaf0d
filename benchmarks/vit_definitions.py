"""Rollout inside the integral (the paper) or of averaged matrices (the release): how much do ViT maps differ?

On the small ViT that tests/test_pointing.py trains, whose deciding object is known. Prints Markdown.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import iia
from iia import settings
from tests.test_pointing import make, small_vit

# ------------------------------------------------------------------------------------- settings
pictures = 60
steps = "5,10"                  # n
# ----------------------------------------------------------------------------------------------


def main(chosen):
    model, (x, y, where) = iia.wrap(small_vit()), make(chosen.pictures, seed=3)
    print("| operation | n | correlation | largest difference | points: paper | points: release |")
    print("| --- | --- | --- | --- | --- | --- |")
    for operation in ("iia", "iia-triple", "iia-previous"):
        for n in map(int, chosen.steps.split(",")):
            maps = [iia.explain(model, x, y, operation, definition=definition, steps=n, batch_size=60)
                    for definition in ("paper", "release")]
            flat = torch.stack(maps).flatten(2)
            alike = [torch.corrcoef(flat[:, i])[0, 1].item() for i in range(len(x))]
            peaks = [where.flatten(1).gather(1, own.argmax(1, keepdim=True)).float().mean() for own in flat]
            print(f"| {operation} | {n} | {sum(alike) / len(alike):.4f} | "
                  f"{(flat[0] - flat[1]).abs().amax(1).mean():.3f} | "
                  + " | ".join(f"{100 * share:.0f} %" for share in peaks) + " |")


if __name__ == "__main__":
    settings.run(main, globals())
