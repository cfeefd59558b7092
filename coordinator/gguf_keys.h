/* The keys of GGUF files' metadata, for reading (gguf_config.c, gguf_tokenizer.c) and writing
 * (gguf_metadata.c, gguf_vocabulary.c). */
#pragma once

#define KEY_ARCHITECTURE         "general.architecture"
#define KEY_NAME                 "general.name"
#define KEY_KIND                 "general.type"
#define KEY_FILE_TYPE            "general.file_type"
#define KEY_QUANTISATION_VERSION "general.quantization_version"
#define KEY_ALIGNMENT            "general.alignment"
#define KEY_TOKENIZER_MODEL      "tokenizer.ggml.model"
#define KEY_TOKENIZER_PRE        "tokenizer.ggml.pre"
#define KEY_TOKENS               "tokenizer.ggml.tokens"
#define KEY_TOKEN_TYPES          "tokenizer.ggml.token_type"
#define KEY_MERGES               "tokenizer.ggml.merges"
#define KEY_BOS                  "tokenizer.ggml.bos_token_id"
#define KEY_EOS                  "tokenizer.ggml.eos_token_id"
#define KEY_PADDING              "tokenizer.ggml.padding_token_id"
#define KEY_ADD_BOS              "tokenizer.ggml.add_bos_token"
#define KEY_ADD_EOS              "tokenizer.ggml.add_eos_token"
#define KEY_CHAT_TEMPLATE        "tokenizer.chat_template"

/* Behind the architecture's name and a dot. */
#define KEY_BLOCK_COUNT                     "block_count"
#define KEY_NEXTN_PREDICT_LAYERS            "nextn_predict_layers"
#define KEY_EMBEDDING_LENGTH                "embedding_length"
#define KEY_FEED_FORWARD_LENGTH             "feed_forward_length"
#define KEY_CONTEXT_LENGTH                  "context_length"
#define KEY_LAYER_NORM_RMS_EPSILON          "attention.layer_norm_rms_epsilon"
#define KEY_VOCAB_SIZE                      "vocab_size"
#define KEY_ROPE_FREQ_BASE                  "rope.freq_base"
#define KEY_SCALING_TYPE                    "rope.scaling.type"
#define KEY_SCALING_FACTOR                  "rope.scaling.factor"
#define KEY_SCALING_ORIGINAL_CONTEXT_LENGTH "rope.scaling.original_context_length"
#define KEY_YARN_BETA_FAST                  "rope.scaling.yarn_beta_fast"
#define KEY_YARN_BETA_SLOW                  "rope.scaling.yarn_beta_slow"
#define KEY_YARN_LOG_MULTIPLIER             "rope.scaling.yarn_log_multiplier"
#define KEY_ROPE_DIMENSION_COUNT            "rope.dimension_count"
#define KEY_KEY_LENGTH                      "attention.key_length"
#define KEY_KEY_LENGTH_MLA                  "attention.key_length_mla"
#define KEY_VALUE_LENGTH                    "attention.value_length"
#define KEY_VALUE_LENGTH_MLA                "attention.value_length_mla"
#define KEY_KV_LORA_RANK                    "attention.kv_lora_rank"
#define KEY_Q_LORA_RANK                     "attention.q_lora_rank"
#define KEY_HEAD_COUNT                      "attention.head_count"
#define KEY_HEAD_COUNT_KV                   "attention.head_count_kv"
#define KEY_EXPERT_GROUP_COUNT              "expert_group_count"
#define KEY_EXPERT_GROUP_USED_COUNT         "expert_group_used_count"
#define KEY_EXPERT_COUNT                    "expert_count"
#define KEY_EXPERT_GATING_FUNC              "expert_gating_func"
#define KEY_EXPERT_USED_COUNT               "expert_used_count"
#define KEY_EXPERT_FEED_FORWARD_LENGTH      "expert_feed_forward_length"
#define KEY_EXPERT_SHARED_COUNT             "expert_shared_count"
#define KEY_LEADING_DENSE_BLOCK_COUNT       "leading_dense_block_count"
#define KEY_EXPERT_WEIGHTS_SCALE            "expert_weights_scale"
#define KEY_EXPERT_WEIGHTS_NORM             "expert_weights_norm"

#define ARCHITECTURE_V1     "deepseek"
#define ARCHITECTURE_LATENT "deepseek2"

/* Values of expert_gating_func. */
enum { GATING_SOFTMAX = 1, GATING_SIGMOID = 2 };

/* yarn_log_multiplier is this much of mscale_all_dim. */
#define YARN_LOG_FACTOR 0.1

/* Values of tokenizer.ggml.model: byte-level BPE; ids only. */
#define TOKENIZER_BPE  "gpt2"
#define TOKENIZER_NONE "none"

/* Values of tokenizer.ggml.token_type. */
enum { TYPE_NORMAL = 1, TYPE_CONTROL = 3, TYPE_USER_DEFINED = 4, TYPE_UNUSED = 5 };
