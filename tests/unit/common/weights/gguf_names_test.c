/* Names there and back: where a checkpoint's tensor belongs in a GGUF file. What the reader makes
 * of GGUF's names is tested with the reader. */
#include "common/weights/gguf_names.h"

#include "tests/unit/test.h"

static void known_names(void **state) {
    (void)state;
    static const struct {
        const char *name, *gguf, *part;
        enum gguf_kind kind;
        uint32_t layer, expert;
    } CASES[] = {
        {"model.embed_tokens.weight", "token_embd.weight", "token_embd.weight", GGUF_WHOLE,
         GGUF_NO_LAYER, 0},
        {"lm_head.weight", "output.weight", "output.weight", GGUF_WHOLE, GGUF_NO_LAYER, 0},
        {"model.layers.0.mlp.gate_proj.weight", "blk.0.ffn_gate.weight", "ffn_gate.weight",
         GGUF_WHOLE, 0, 0},
        {"model.layers.60.mlp.gate.e_score_correction_bias", "blk.60.exp_probs_b.bias",
         "exp_probs_b.bias", GGUF_WHOLE, 60, 0},
        {"model.layers.7.mlp.experts.255.down_proj.weight", "blk.7.ffn_down_exps.weight",
         "ffn_down_exps.weight", GGUF_EXPERTS, 7, 255},
        {"model.layers.3.self_attn.k_b_proj.weight", "blk.3.attn_k_b.weight", "attn_k_b.weight",
         GGUF_HEADS, 3, 0},
        {"model.layers.61.shared_head.norm.weight", "blk.61.nextn.shared_head_norm.weight",
         "nextn.shared_head_norm.weight", GGUF_WHOLE, 61, 0},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct gguf_place place;
        assert_true(gguf_find_place(CASES[i].name, &place));
        assert_string_equal(place.name, CASES[i].gguf);
        assert_string_equal(place.part, CASES[i].part);
        assert_int_equal(place.kind, CASES[i].kind);
        assert_int_equal(place.layer, CASES[i].layer);
        assert_int_equal(place.expert, CASES[i].expert);
    }
}

static void other_names(void **state) {
    (void)state;
    static const char *const NAMES[] = {
        "",
        "token_embd.weight",
        "model.layers.0.gate_proj.weight", /* an expert's, without the expert */
        "model.layers.0.mlp.experts.1.mlp.gate.weight",
        "model.layers.0.mlp.experts.99999.up_proj.weight",
        "model.layers.99999.input_layernorm.weight",
        "model.layers.-1.input_layernorm.weight",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.0",
    };
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        struct gguf_place place;
        if (gguf_find_place(NAMES[i], &place))
            fail_msg("\"%s\" became %s", NAMES[i], place.name);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_names),
        cmocka_unit_test(other_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
