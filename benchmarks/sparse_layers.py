"""Single convolutions by their non-zero weights against oneDNN's dense ones, without any activation on either side.

    python benchmarks/sparse_layers.py [rounds]

Layers as YOLOv5 has them: 3x3 with 32 to 128 channels and 1x1 with 64 to 128, two threads, random weights. Each round runs
every sparsity once in an order drawn anew; the ratio is to the dense convolution of the same round, in the faster of its two
memory layouts. "Dense again" is the A/A control. Nothing else should be running.
"""

import sys

from yolop.measure import latency
from yolop.speed import atlas
from yolop.speed_specs import AtlasSpec

LAYERS = (  # c1, c2, kernel, stride, side in px
    (32, 32, 3, 1, 80),
    (64, 64, 3, 1, 40),
    (128, 128, 3, 1, 20),
    (64, 64, 1, 1, 80),
    (64, 64, 1, 1, 40),
    (128, 128, 1, 1, 40),
    (128, 128, 1, 1, 20),
)
SPARSITIES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def main(rounds: int) -> None:
    """Print the speed-up of every layer and sparsity with its 95 % interval."""
    spec = AtlasSpec((), 3, 320, SPARSITIES, rounds, calls=10, silu=False)
    with latency.threads(spec.threads):
        for layer in LAYERS:
            c1, c2, kernel, _, side = layer
            print(f"{kernel}x{kernel}, {c1} to {c2} channels, {side} x {side} px")
            for row in atlas.measure_shape(spec, layer, {}):
                what = "dense again" if row["sparsity"] is None else f"{row['sparsity']:.0%} zeros, {row['path']}"
                low, high = 1 / row["ratio_high"], 1 / row["ratio_low"]
                print(f"  {what:<28} {1 / row['ratio']:5.2f}x ({low:.2f} to {high:.2f})   {row['sparse_ms']:.3f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 31)
