#!/usr/bin/python3
"""Generates models with awkward dimensions and checks a built skein on all of them.

unseen_models.py [SKEIN] [--seed N] [--only NAME] [--keep DIR]     default SKEIN: build/bin/skein

Nothing in skein may depend on the sizes of the golden models. Each model here has what another one lacks: head counts
that are no powers of two, ragged inner sizes, few or many groups, no or several shared experts, ties of the output head,
every storage type, YaRN whose ramp matters, split checkpoints. `--keep DIR` leaves the models in DIR.
"""
import argparse
import os
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "reference"), HERE]
from check_model import check_all  # noqa: E402
from generate import generate  # noqa: E402

# Original positions 16: prompt and answer go beyond them, and the ramp lies amid the frequencies.
SHORT_YARN = {
    "type": "yarn",
    "factor": 4,
    "original_max_position_embeddings": 16,
    "beta_fast": 4,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}

MODELS = {
    "v1-grouped-heads-f16": (
        "v1",
        dict(dtype="f16"),
        dict(
            hidden_size=96,
            num_attention_heads=6,
            num_key_value_heads=2,
            n_shared_experts=3,
            moe_intermediate_size=36,
        ),
    ),
    "v1-one-kv-head-tied-f32-3-files": (
        "v1",
        dict(dtype="f32", files=3),
        dict(
            hidden_size=200,
            num_attention_heads=5,
            num_key_value_heads=1,
            n_shared_experts=None,
            first_k_dense_replace=0,
            norm_topk_prob=True,
            tie_word_embeddings=True,
            moe_intermediate_size=52,
            n_routed_experts=10,
            num_experts_per_tok=3,
        ),
    ),
    "v2-lite-sparse-layers": (
        "v2-lite",
        {},
        dict(
            num_hidden_layers=5,
            moe_layer_freq=2,
            first_k_dense_replace=2,
            moe_intermediate_size=52,
            rope_theta=5000.0,
            rope_scaling={**SHORT_YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
            max_position_embeddings=64,
        ),
    ),
    "v2-16-groups-7-heads-f16": (
        "v2",
        dict(dtype="f16"),
        dict(
            num_attention_heads=7,
            num_key_value_heads=7,
            v_head_dim=12,
            qk_nope_head_dim=20,
            qk_rope_head_dim=24,
            n_group=16,
            topk_group=5,
            rope_scaling={**SHORT_YARN, "mscale_all_dim": 0.5},
        ),
    ),
    "v2-all-groups-3-files": (
        "v2",
        dict(files=3),
        dict(
            n_group=4,
            topk_group=4,
            n_routed_experts=24,
            num_experts_per_tok=5,
            first_k_dense_replace=0,
            hidden_size=200,
            num_attention_heads=5,
            num_key_value_heads=5,
            n_shared_experts=0,
            v_head_dim=36,
            kv_lora_rank=52,
        ),
    ),
    "v3-one-group-no-q-rank": (
        "v3",
        {},
        dict(
            q_lora_rank=None,
            n_group=1,
            topk_group=1,
            n_shared_experts=2,
            num_experts_per_tok=6,
            rope_scaling=None,
            rope_theta=50000.0,
            num_nextn_predict_layers=0,
            routed_scaling_factor=2.446,
        ),
    ),
    "v3-negative-scores-draft": (
        "v3",
        dict(score_bias_mean=-2.0),
        dict(
            n_group=2,
            topk_group=1,
            n_routed_experts=18,
            num_attention_heads=5,
            num_key_value_heads=5,
            qk_rope_head_dim=24,
            moe_intermediate_size=52,
            rope_scaling=SHORT_YARN,
        ),
    ),
    "v3-fp8-ragged-blocks-draft": (
        "v3",
        dict(dtype="fp8"),
        dict(
            hidden_size=200,
            moe_intermediate_size=224,
            intermediate_size=300,
            q_lora_rank=136,
            kv_lora_rank=72,
            num_attention_heads=7,
            num_key_value_heads=7,
            n_group=3,
            topk_group=2,
            n_routed_experts=12,
            num_experts_per_tok=4,
        ),
    ),
    "v3-fp8-small-3-files": (
        "v3",
        dict(dtype="fp8", files=3),
        dict(
            hidden_size=96,
            moe_intermediate_size=200,
            q_lora_rank=None,
            num_nextn_predict_layers=0,
            n_shared_experts=3,
            n_group=4,
            topk_group=2,
            n_routed_experts=16,
            num_experts_per_tok=4,
            rope_scaling=SHORT_YARN,
        ),
    ),
    "v3-all-groups-tied-f32-draft": (
        "v3",
        dict(dtype="f32", files=2),
        dict(
            n_group=16,
            topk_group=16,
            n_shared_experts=0,
            first_k_dense_replace=2,
            num_hidden_layers=4,
            tie_word_embeddings=True,
            norm_topk_prob=False,
            num_experts_per_tok=1,
            routed_scaling_factor=1.5,
        ),
    ),
}

# Worker counts, placements, rows per step. Together they meet every worker path at a seam of its own: one row, a chunk
# that does not divide the prompt, the whole prompt at once; more workers than slices; workers with nothing to do.
CHECKS = [
    ((0,), (), (1, 7, 512)),
    ((1,), ("experts",), (32,)),
    ((2,), ("slices",), (7,)),
    ((3,), ("experts",), (1,)),
    ((5,), ("slices",), (512,)),
]


def main():
    parser = argparse.ArgumentParser(description="Checks a built skein on models with awkward dimensions.")
    parser.add_argument("skein", nargs="?", default=os.path.join(HERE, "..", "..", "build", "bin", "skein"))
    parser.add_argument(
        "--seed", type=int, default=1, help="another seed gives other models of the same shapes"
    )
    parser.add_argument("--only", help="models whose name contains this")
    parser.add_argument("--keep", metavar="DIR", help="write the models here and leave them")
    args = parser.parse_args()
    passed = failed = 0
    with tempfile.TemporaryDirectory(prefix="skein-models-") as temporary:
        for name, (family, options, config) in MODELS.items():
            if args.only and args.only not in name:
                continue
            directory = os.path.join(args.keep or temporary, name)
            generate(directory, family, args.seed, overrides=list(config.items()), **options)
            for workers, placements, batches in CHECKS:
                counts = check_all(os.path.abspath(args.skein), [directory], workers, placements, batches)
                passed, failed = passed + counts[0], failed + counts[1]
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0 or passed == 0)


if __name__ == "__main__":
    main()
