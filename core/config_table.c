/* SPDX-License-Identifier: Apache-2.0 */
/* core/config_table.c - the one table of configuration keys, and look-up in it. */
#include "core/config_table.h"
#include "core/text.h"

#include <stdlib.h>
#include <string.h>

/* clang-format off */
#define CHOICES(...) ((const struct st_choice[]){ __VA_ARGS__, { NULL, 0 } })
#define OFF(f) .offset = offsetof(struct st_config, f)
#define T(t) .type = ST_KEY_##t
#define AUTO .flags = ST_KEY_AUTO
#define AUTO_IS(text) .flags = ST_KEY_AUTO, .auto_text = text
#define SCHED(mask) .schedules = (mask)
#define TIED .tie = ST_KEY_TIED

/* One row each: honoured, no effect (with the reason), refused (with the reason). */
#define H(p, ...) { .path = p, .fate = ST_KEY_HONOURED, __VA_ARGS__ }
#define N(p, t, d, why) { .path = p, T(t), .fate = ST_KEY_NO_EFFECT, .flags = ST_KEY_AUTO, \
			  .def = d, .reason = why }
#define R(p, t, d, why) { .path = p, T(t), .fate = ST_KEY_REFUSED, .flags = ST_KEY_AUTO, \
			  .def = d, .reason = why }
#define OBJ(p, h) { .path = p, T(OBJECT), .fate = ST_KEY_HONOURED, .help = h }
#define OLD(p, of) { .path = p, .alias_of = of, .fate = ST_KEY_HONOURED, .help = "old name" }

/* Reasons given more than once. Keys with the same reason are reported together. */
#define ONE_RANK "one rank: nothing is exchanged or partitioned"
#define PROGRAM "reads and writes follow a program compiled from the memory budgets"
#define PLANNER "the planner sizes and places buffers from the memory budgets"
#define PINNED "host memory is always pinned where the limit allows"
#define MEASURE "not a tool of this program; its own log and traces serve"
#define MONITOR "metrics go to the JSON-lines log in the output directory"
#define AMP_OFF "automatic mixed precision is not supported, and off"
#define TORCH "a detail of PyTorch"
#define OLD_OFFLOAD "the old form; write zero_optimization.offload_"
#define QUANT "communicates or keeps rounded values, which would change results"
#define SAVE "every result is written as one whole model.safetensors"
#define ELASTIC "elastic training is off"
#define TUNER "the autotuner is off"
#define RECOMPUTE "recomputation is planned by strata.recompute and the budgets"
#define NEBULA "checkpoints are kept by the store on nvme_path"
#define ONE_BIT "compressed optimizers are not supported"

#define RANGE (1u << ST_SCHEDULE_LR_RANGE_TEST)
#define CYCLE (1u << ST_SCHEDULE_ONE_CYCLE)
#define WARM (1u << ST_SCHEDULE_WARMUP)
#define DECAY (1u << ST_SCHEDULE_WARMUP_DECAY)
#define COSINE (1u << ST_SCHEDULE_WARMUP_COSINE)
#define SP "scheduler.params."
#define ZO "zero_optimization."
#define OP "optimizer.params."

#define DEVICES CHOICES({ "none", ST_OFFLOAD_NONE }, { "cpu", ST_OFFLOAD_CPU }, \
			{ "nvme", ST_OFFLOAD_NVME })
#define DTYPES CHOICES({ "fp32", ST_F32 }, { "bf16", ST_BF16 }, { "fp16", ST_F16 }, \
		       { "float32", ST_F32 }, { "bfloat16", ST_BF16 }, { "float16", ST_F16 })
#define PRECISIONS CHOICES({ "fp32", ST_F32 }, { "bf16", ST_BF16 })

static const struct st_key keys[] = {
/* ---- the batch ----------------------------------------------------------------------------- */
H("train_batch_size", T(INT), .min = 1, .max = 1e9, AUTO_IS("micro batch x accumulation steps"),
  OFF(train_batch), .help = "sequences per optimizer step; = micro batch x accumulation steps"),
H("train_micro_batch_size_per_gpu", TIED, T(INT), .min = 1, .max = 1e9,
  AUTO_IS("the rest of the batch, or 8"), OFF(micro_batch),
  .help = "sequences of one forward and backward"),
H("gradient_accumulation_steps", TIED, T(INT), .min = 1, .max = 1e9,
  AUTO_IS("the rest of the batch, or 1"), OFF(accum_steps),
  .help = "micro batches whose gradients make one optimizer step"),
N("managed_gradient_accumulation", BOOL, "true", "the engine knows the micro batches of a step"),
H("steps_per_print", T(INT), .def = "10", .min = 1, AUTO, OFF(steps_per_print),
  .help = "a progress line every so many optimizer steps"),
H("gradient_clipping", T(NUM), .def = "1.0", AUTO, OFF(gradient_clipping),
  .help = "largest global norm of the gradients; 0 switches clipping off"),

/* ---- optimizer ----------------------------------------------------------------------------- */
OBJ("optimizer", "the optimizer"),
H("optimizer.type", TIED, T(WORD), .def = "\"AdamW\"", .flags = ST_KEY_FOLD,
  .choices = CHOICES({ "AdamW", 0 }, { "Adam", 0 }, { "Adagrad", 0 }, { "Lion", 0 }, { "SGD", 0 }),
  OFF(optimizer.type), .reason = "AdamW, Adam, Adagrad, Lion and SGD are built in",
  .help = "AdamW, Adam (decoupled decay all the same unless adam_w_mode is false), Adagrad, Lion or "
	  "SGD"),
N("optimizer.legacy_fusion", BOOL, "false", TORCH),
OBJ("optimizer.params", "its parameters"),
H(OP "lr", T(NUM), .def = "0.001", AUTO, OFF(optimizer.lr), .help = "learning rate"),
H(OP "betas", T(PAIR), .def = "[0.9, 0.999]", .max = 1, .flags = ST_KEY_AUTO | ST_KEY_BELOW_MAX,
  OFF(optimizer.betas),
  .help = "decay of the first and of the second moment; Lion, unset: [0.9, 0.99]"),
H(OP "eps", T(NUM), .def = "1e-8", .flags = ST_KEY_AUTO | ST_KEY_ABOVE_MIN, OFF(optimizer.eps),
  .help = "added to the root of the second moment; Adagrad, unset: 1e-10"),
H(OP "weight_decay", T(NUM), .def = "0.0", AUTO, OFF(optimizer.weight_decay),
  .help = "weight decay, times the learning rate; strata.optimizer.decay says of which tensors"),
H(OP "adam_w_mode", TIED, T(BOOL), .def = "true", OFF(optimizer.adam_w_mode),
  .help = "type Adam: decoupled decay (AdamW); false adds the decay to the gradient"),
H(OP "bias_correction", T(BOOL), .def = "true", OFF(optimizer.bias_correction),
  .help = "correct the moments' start at zero"),
H(OP "momentum", .tie = ST_KEY_TIED_SIGN, T(NUM), .def = "0.0", .max = 1, .flags = ST_KEY_BELOW_MAX, OFF(optimizer.momentum),
  .help = "SGD: share of the step before; 0: none is kept"),
H(OP "dampening", T(NUM), .def = "0.0", .max = 1, OFF(optimizer.dampening),
  .help = "SGD: part of the gradient that does not enter the momentum"),
H(OP "nesterov", T(BOOL), .def = "false", OFF(optimizer.nesterov),
  .help = "SGD: look ahead by the momentum; needs momentum, and dampening 0"),
H(OP "lr_decay", T(NUM), .def = "0.0", OFF(optimizer.lr_decay),
  .help = "Adagrad: the rate is divided by 1 + lr_decay x the steps before"),
N(OP "torch_adam", BOOL, "false", TORCH),
N(OP "fused", BOOL, NULL, TORCH), N(OP "foreach", BOOL, NULL, TORCH),
N(OP "capturable", BOOL, "false", TORCH), N(OP "differentiable", BOOL, "false", TORCH),
H(OP "fp32_optimizer_states", T(BOOL), .def = "true", OFF(optimizer.fp32_states),
  .help = "moments in fp32; false: in bf16, as strata.optimizer.moments \"bf16\""),
R(OP "amsgrad", BOOL, "false", "the AMSGrad variant is not built in"),
R(OP "maximize", BOOL, "false", "the loss is minimised"),
R(OP "max_grad_norm", NUM, NULL, "DeepSpeed refuses it too; write \"gradient_clipping\""),
R(OP "freeze_step", INT, NULL, ONE_BIT), R(OP "var_freeze_step", INT, NULL, ONE_BIT),
R(OP "cuda_aware", BOOL, "false", ONE_BIT), R(OP "comm_backend_name", STRING, NULL, ONE_BIT),
N("zero_allow_untested_optimizer", BOOL, "false", "the built-in optimizers are the tested ones"),
N("zero_force_ds_cpu_optimizer", BOOL, "true", "the built-in optimizer is used in every tier"),

/* ---- scheduler ----------------------------------------------------------------------------- */
OBJ("scheduler", "the learning rate over the steps; absent: constant"),
H("scheduler.type", T(ENUM), .choices = CHOICES({ "none", ST_SCHEDULE_NONE },
  { "LRRangeTest", ST_SCHEDULE_LR_RANGE_TEST }, { "OneCycle", ST_SCHEDULE_ONE_CYCLE },
  { "WarmupLR", ST_SCHEDULE_WARMUP }, { "WarmupDecayLR", ST_SCHEDULE_WARMUP_DECAY },
  { "WarmupCosineLR", ST_SCHEDULE_WARMUP_COSINE }), OFF(schedule.type),
  .reason = "PyTorch's own schedulers are not there", .help = "which schedule"),
OBJ("scheduler.params", "its parameters"),
H(SP "lr_range_test_min_lr", T(NUM), SCHED(RANGE), .def = "0.001", AUTO, OFF(schedule.range_min_lr),
  .help = "rate of the first step"),
H(SP "lr_range_test_step_size", T(INT), SCHED(RANGE), .def = "2000", .min = 1, AUTO,
  OFF(schedule.range_step_size), .help = "steps of one interval"),
H(SP "lr_range_test_step_rate", T(NUM), SCHED(RANGE), .def = "1.0", AUTO,
  OFF(schedule.range_step_rate), .help = "growth per interval, in units of the first rate"),
H(SP "lr_range_test_staircase", T(BOOL), SCHED(RANGE), .def = "false", AUTO,
  OFF(schedule.range_staircase), .help = "grow at the end of each interval only"),
H(SP "cycle_min_lr", T(NUM), SCHED(CYCLE), OFF(schedule.cycle_min_lr),
  .help = "rate at both ends of the cycle"),
H(SP "cycle_max_lr", T(NUM), SCHED(CYCLE), OFF(schedule.cycle_max_lr), .help = "rate at its peak"),
H(SP "decay_lr_rate", T(NUM), SCHED(CYCLE), .def = "0.0", AUTO, OFF(schedule.decay_lr_rate),
  .help = "decay of the rate after the cycle"),
H(SP "cycle_first_step_size", T(INT), SCHED(CYCLE), .def = "2000", .min = 1, AUTO,
  OFF(schedule.cycle_first_step_size), .help = "steps up"),
H(SP "cycle_second_step_size", T(INT), SCHED(CYCLE), .min = 1, AUTO_IS("cycle_first_step_size"),
  OFF(schedule.cycle_second_step_size), .help = "steps down; unset: as many as up"),
H(SP "cycle_first_stair_count", T(INT), SCHED(CYCLE), .def = "0", AUTO,
  OFF(schedule.cycle_first_stair_count), .help = "stairs of the way up; 0: a slope"),
H(SP "cycle_second_stair_count", T(INT), SCHED(CYCLE), AUTO_IS("cycle_first_stair_count"),
  OFF(schedule.cycle_second_stair_count), .help = "stairs of the way down; unset: as many as up"),
H(SP "decay_step_size", T(INT), SCHED(CYCLE), .def = "0", AUTO, OFF(schedule.decay_step_size),
  .help = "steps of one decay interval; 0: no decay"),
H(SP "cycle_momentum", T(BOOL), SCHED(CYCLE), .def = "true", AUTO, OFF(schedule.cycle_momentum),
  .help = "cycle beta1 the other way round (beta2 is then 0.99, as in DeepSpeed)"),
H(SP "cycle_min_mom", T(NUM), SCHED(CYCLE), .def = "0.8", .max = 1,
  .flags = ST_KEY_AUTO | ST_KEY_BELOW_MAX, OFF(schedule.cycle_min_mom),
  .help = "beta1 at the peak of the rate"),
H(SP "cycle_max_mom", T(NUM), SCHED(CYCLE), .def = "0.9", .max = 1,
  .flags = ST_KEY_AUTO | ST_KEY_BELOW_MAX, OFF(schedule.cycle_max_mom),
  .help = "beta1 at both ends of the cycle"),
H(SP "decay_mom_rate", T(NUM), SCHED(CYCLE), .def = "0.0", AUTO, OFF(schedule.decay_mom_rate),
  .help = "growth of beta1 after the cycle"),
H(SP "warmup_min_lr", T(NUM), SCHED(WARM | DECAY), .def = "0.0", AUTO, OFF(schedule.warmup_min_lr),
  .help = "rate before the warm-up"),
H(SP "warmup_max_lr", T(NUM), SCHED(WARM | DECAY), AUTO_IS("optimizer.params.lr"),
  OFF(schedule.warmup_max_lr),
  .help = "rate after the warm-up; unset: the optimizer's (WarmupLR), 0.001 (WarmupDecayLR)"),
H(SP "warmup_num_steps", T(INT), SCHED(WARM | DECAY | COSINE), .def = "1000", .min = 1, AUTO,
  OFF(schedule.warmup_num_steps), .help = "steps of the warm-up (1 counts as 2)"),
H(SP "warmup_type", T(ENUM), SCHED(WARM | DECAY | COSINE), .def = "\"log\"", AUTO,
  .choices = CHOICES({ "log", ST_WARMUP_LOG }, { "linear", ST_WARMUP_LINEAR }),
  OFF(schedule.warmup_type), .help = "how the rate grows"),
H(SP "total_num_steps", T(INT), SCHED(DECAY | COSINE), .min = 1, AUTO_IS("strata.steps"),
  OFF(schedule.total_num_steps), .help = "step at which the decay ends"),
H(SP "warmup_min_ratio", T(NUM), SCHED(COSINE), .def = "0.0", AUTO, OFF(schedule.warmup_min_ratio),
  .help = "start of the warm-up, as a share of the optimizer's rate"),
H(SP "cos_min_ratio", T(NUM), SCHED(COSINE), .def = "0.0001", AUTO, OFF(schedule.cos_min_ratio),
  .help = "end of the decay, as a share of the optimizer's rate"),
R(SP "last_batch_iteration", ANY, "-1", "the step is known when a run is resumed"),

/* ---- precision ----------------------------------------------------------------------------- */
OBJ("bf16", "bf16 parameters, activations and products over an exact fp32 master weight"),
H("bf16.enabled", TIED, T(BOOL), .def = "false", AUTO, OFF(bf16_enabled),
  .help = "train in bf16; absent or false: fp32"),
N("bf16.immediate_grad_update", BOOL, "false", "gradients are accumulated once per block"),
N("bf16.check_grad_overflow", BOOL, "true", "the gradient norm shows what is not finite"),
N("bf16.bf16_master_weights_and_grads", BOOL, "false",
  "gradients rest in bf16 anyway, and the master weight stays exact: bf16 + 16 bits of correction"),
H("bf16.bf16_optimizer_states", T(BOOL), .def = "false", OFF(bf16_states),
  .help = "moments in bf16, as strata.optimizer.moments \"bf16\""),
OBJ("bfloat16", "old name of bf16"),
OLD("bfloat16.enabled", "bf16.enabled"),
OBJ("fp16", "fp16 parameters, activations and gradients, with a loss scale"),
H("fp16.enabled", TIED, T(BOOL), .def = "false", AUTO, OFF(fp16.enabled),
  .help = "train in fp16; the master weight is fp32"),
N("fp16.auto_cast", BOOL, "false", "inputs are tokens"),
H("fp16.loss_scale", T(NUM), .def = "0", OFF(fp16.loss_scale),
  .help = "factor of the loss in backward; 0: dynamic"),
H("fp16.initial_scale_power", T(INT), .def = "16", .max = 32, OFF(fp16.initial_scale_power),
  .help = "dynamic: the first scale is 2 to this power"),
H("fp16.loss_scale_window", T(INT), .def = "1000", .min = 1, .max = 1e9,
  OFF(fp16.loss_scale_window), .help = "dynamic: steps without overflow until the scale doubles"),
H("fp16.hysteresis", T(INT), .def = "2", .min = 1, .max = 1e9, OFF(fp16.hysteresis),
  .help = "dynamic: overflows until the scale halves"),
H("fp16.consecutive_hysteresis", T(BOOL), .def = "false", OFF(fp16.consecutive_hysteresis),
  .help = "dynamic: a step without overflow refills the hysteresis"),
H("fp16.min_loss_scale", T(NUM), .def = "1", .flags = ST_KEY_ABOVE_MIN, OFF(fp16.min_loss_scale),
  .help = "dynamic: the scale never falls below"),
N("fp16.fp16_master_weights_and_grads", BOOL, "false",
  "gradients rest in fp16 anyway, and the master weight stays fp32"),
OBJ("data_types", "element types"),
H("data_types.grad_accum_dtype", TIED, T(ENUM), .choices = DTYPES, OFF(grad_dtype),
  AUTO_IS("the model's"),
  .help = "type of a gradient at rest (sums within a step are fp32); unset: the model's"),
R("data_types.param_dtype", ANY, NULL, "parameters have the type that bf16.enabled chooses"),
R("data_types.buffer_dtype", ANY, NULL, "there are no buffers beside the parameters"),
N("torch_autocast", OBJECT, NULL, AMP_OFF), N("torch_autocast.dtype", STRING, NULL, AMP_OFF),
N("torch_autocast.lower_precision_safe_modules", ANY, NULL, AMP_OFF),
R("torch_autocast.enabled", BOOL, "false", "autocast is not supported; use bf16"),
N("amp", OPEN, NULL, AMP_OFF),
R("amp.enabled", BOOL, "false", "Apex mixed precision is not supported; use bf16"),

/* ---- ZeRO ---------------------------------------------------------------------------------- */
OBJ("zero_optimization", "ZeRO, and where parameters and optimizer states live"),
H(ZO "stage", T(INT), .def = "0", .max = 3, AUTO, OFF(zero_stage),
  .help = "0..3; offloading parameters, or anything to nvme, needs 3"),
OBJ(ZO "offload_param", "where parameters live"),
H(ZO "offload_param.device", T(ENUM), .def = "\"none\"", AUTO, .choices = DEVICES,
  OFF(offload_param), .help = "none (device memory), cpu (pinned host memory) or nvme"),
H(ZO "offload_param.nvme_path", T(PATHS), AUTO_IS("offload_optimizer.nvme_path"),
  OFF(param_nvme_paths), .help = "directory, or list of directories to stripe over"),
N(ZO "offload_param.buffer_count", INT, "5", PLANNER),
N(ZO "offload_param.buffer_size", INT, "1e8", PLANNER),
N(ZO "offload_param.max_in_cpu", INT, "1e9", PLANNER),
N(ZO "offload_param.pin_memory", BOOL, "true", PINNED),
OBJ(ZO "offload_optimizer", "where optimizer states live"),
H(ZO "offload_optimizer.device", T(ENUM), .def = "\"none\"", AUTO, .choices = DEVICES,
  OFF(offload_optimizer), .help = "none (device memory), cpu (pinned host memory) or nvme"),
H(ZO "offload_optimizer.nvme_path", T(PATHS), AUTO_IS("offload_param.nvme_path"),
  OFF(optimizer_nvme_paths), .help = "directory, or list of directories to stripe over"),
N(ZO "offload_optimizer.buffer_count", INT, "4", PLANNER),
N(ZO "offload_optimizer.pin_memory", BOOL, "true", PINNED),
N(ZO "offload_optimizer.pipeline", BOOL, "false", PROGRAM),
N(ZO "offload_optimizer.pipeline_read", BOOL, "false", PROGRAM),
N(ZO "offload_optimizer.pipeline_write", BOOL, "false", PROGRAM),
N(ZO "offload_optimizer.fast_init", BOOL, "false", PROGRAM),
N(ZO "offload_optimizer.ratio", NUM, "1.0", PLANNER),
N(ZO "offload_optimizer.super_offload", BOOL, "false", PROGRAM),
N(ZO "offload_optimizer.cpuadam_cores_perc", NUM, "0.8", "strata.threads sets the threads"),
N(ZO "contiguous_gradients", BOOL, "true", PLANNER),
N(ZO "reduce_scatter", BOOL, "true", ONE_RANK), N(ZO "reduce_bucket_size", INT, "5e8", ONE_RANK),
N(ZO "use_multi_rank_bucket_allreduce", BOOL, "true", ONE_RANK),
N(ZO "allgather_partitions", BOOL, "true", ONE_RANK),
N(ZO "allgather_bucket_size", INT, "5e8", ONE_RANK),
N(ZO "overlap_comm", BOOL, NULL, ONE_RANK),
N(ZO "load_from_fp32_weights", BOOL, "true", "a resumed master weight is always the exact one"),
N(ZO "elastic_checkpoint", BOOL, "false", ONE_RANK),
N(ZO "sub_group_size", INT, "1e9", "the optimizer works in tiles of 2^18 elements"),
N(ZO "stage3_prefetch_bucket_size", INT, "5e7", PROGRAM),
N(ZO "stage3_param_persistence_threshold", INT, "1e5", PLANNER),
N(ZO "stage3_model_persistence_threshold", INT, NULL, PLANNER),
N(ZO "stage3_max_live_parameters", INT, "1e9", PLANNER),
N(ZO "stage3_max_reuse_distance", INT, "1e9", PROGRAM),
N(ZO "stage3_gather_16bit_weights_on_model_save", BOOL, "false", SAVE),
N(ZO "stage3_gather_fp16_weights_on_model_save", BOOL, "false", SAVE),
N(ZO "stage3_module_granularity_threshold", INT, "0", PROGRAM),
N(ZO "stage3_use_all_reduce_for_fetch_params", BOOL, "false", ONE_RANK),
N(ZO "stage3_allgather_sequential", BOOL, "false", ONE_RANK),
N(ZO "ignore_unused_parameters", BOOL, "true", "every parameter has a gradient"),
N(ZO "round_robin_gradients", BOOL, "false", ONE_RANK),
N(ZO "legacy_stage1", BOOL, "false", ONE_RANK),
N(ZO "zero_hpz_partition_size", INT, "1", ONE_RANK),
R(ZO "zero_quantized_weights", BOOL, "false", QUANT),
R(ZO "zero_quantized_nontrainable_weights", BOOL, "false", QUANT),
R(ZO "zero_quantized_gradients", BOOL, "false", QUANT),
R(ZO "zeropp_loco_param", ANY, NULL, QUANT),
N(ZO "mics_shard_size", ANY, "-1", ONE_RANK),
N(ZO "mics_hierarchical_params_gather", BOOL, "false", ONE_RANK),
N(ZO "memory_efficient_linear", BOOL, "true", RECOMPUTE),
N(ZO "pipeline_loading_checkpoint", BOOL, "false", ONE_RANK),
N(ZO "override_module_apply", BOOL, "true", TORCH),
N(ZO "log_trace_cache_warnings", BOOL, "false", "there is no trace cache"),
N(ZO "enable_sanity_checks", BOOL, "false", "the checks are always on"),
N(ZO "save_muon_momentum_buffer_in_memory", BOOL, "false", "there is no Muon"),
N(ZO "leaf_module", OBJECT, NULL, PROGRAM), N(ZO "leaf_module.classes", ANY, NULL, PROGRAM),
N(ZO "leaf_module.names", ANY, NULL, PROGRAM),
N(ZO "leaf_module.name_suffixes", ANY, NULL, PROGRAM),
R(ZO "zenflow", ANY, NULL, "ZenFlow applies stale updates, which would change results"),
R(ZO "cpu_offload", BOOL, "false", OLD_OFFLOAD "optimizer: {\"device\": \"cpu\"}"),
R(ZO "cpu_offload_params", BOOL, "false", OLD_OFFLOAD "param: {\"device\": \"cpu\"}"),
R(ZO "cpu_offload_param", BOOL, "false", OLD_OFFLOAD "param: {\"device\": \"cpu\"}"),
N(ZO "cpu_offload_use_pin_memory", BOOL, "false", PINNED),
R("zenflow", ANY, NULL, "ZenFlow applies stale updates, which would change results"),

/* ---- I/O, activations ---------------------------------------------------------------------- */
OBJ("aio", "asynchronous I/O to nvme_path"),
H("aio.block_size", T(SIZE), .def = "1048576", .min = 4096, .max = 1 << 30, OFF(aio.block_bytes),
  .help = "longest I/O handed to the kernel, which larger transfers are cut into; a multiple of\n"
	  "4096"),
H("aio.queue_depth", T(INT), .def = "8", .min = 1, .max = 4096, OFF(aio.queue_depth),
  .help = "transfers in flight in each direction, reading and writing"),
H("aio.intra_op_parallelism", T(INT), .def = "1", .min = 1, .max = 64, OFF(aio.threads),
  .help = "threads of the backend \"threads\", each with one I/O; io_uring needs none. Raise it where\n"
	  "io_uring is not allowed"),
OLD("aio.thread_count", "aio.intra_op_parallelism"),
H("aio.single_submit", T(BOOL), .def = "false", OFF(aio.single_submit),
  .help = "io_uring: a system call for each I/O, at once, instead of one for a batch; the backend\n"
	  "\"threads\" has no batches"),
H("aio.overlap_events", T(BOOL), .def = "true", OFF(aio.overlap_events),
  .help = "start an I/O as soon as there is room; false: await a batch whole before the next one"),
R("aio.use_gds", BOOL, "false", "GPUDirect Storage is not there; reads go through pinned memory"),
OBJ("activation_checkpointing", "what is kept between forward and backward"),
H("activation_checkpointing.cpu_checkpointing", T(BOOL), .def = "false", OFF(cpu_checkpointing),
  .help = "kept activations rest in host memory"),
#define AC "activation_checkpointing."
N(AC "partition_activations", BOOL, "false", ONE_RANK),
N(AC "number_checkpoints", INT, NULL, RECOMPUTE),
N(AC "contiguous_memory_optimization", BOOL, "false", PLANNER),
N(AC "synchronize_checkpoint_boundary", BOOL, "false", PROGRAM),
N(AC "profile", BOOL, "false", MEASURE), N(AC "use_pin_memory", BOOL, "true", PINNED),
N(AC "use_streams", BOOL, "true", PROGRAM), N(AC "min_offload_bytes", INT, "1024", PLANNER),
N(AC "max_fwd_stash_count", INT, "2", PLANNER),
N(AC "max_cpu_buffer_pool_count", INT, "64", PLANNER), N(AC "keep_last_count", INT, "1", PLANNER),

/* ---- communication, one rank --------------------------------------------------------------- */
N("communication_data_type", ANY, NULL, ONE_RANK),
N("seq_parallel_communication_data_type", ANY, "\"fp32\"", ONE_RANK),
N("prescale_gradients", BOOL, "false", ONE_RANK),
N("gradient_predivide_factor", NUM, "1.0", ONE_RANK),
N("gradient_allreduce_op", STRING, "\"mean\"", ONE_RANK),
N("disable_allgather", BOOL, "false", ONE_RANK),
N("comms_logger", OBJECT, NULL, ONE_RANK),
N("comms_logger.enabled", BOOL, "false", ONE_RANK),
N("comms_logger.prof_all", BOOL, "true", ONE_RANK),
N("comms_logger.prof_ops", ANY, "[]", ONE_RANK),
N("comms_logger.verbose", BOOL, "false", ONE_RANK),
N("comms_logger.debug", BOOL, "false", ONE_RANK),
N("tensor_parallel", OPEN, NULL, ONE_RANK), N("pipeline", OPEN, NULL, ONE_RANK),
N("use_data_before_expert_parallelism", BOOL, "false", ONE_RANK),
R("sequence_parallel_size", INT, "1", "there is one rank"),
R("sparse_gradients", BOOL, "false", "gradients are dense"),

/* ---- checkpoints, tools, monitors ----------------------------------------------------------- */
OBJ("checkpoint", "how DeepSpeed writes checkpoints"),
N("checkpoint.tag_validation", STRING, "\"Warn\"", ONE_RANK),
R("checkpoint.load_universal", BOOL, "false",
  "universal checkpoints are not read; start from safetensors with strata.model.init_from"),
N("checkpoint.use_node_local_storage", BOOL, "false", ONE_RANK),
N("checkpoint.parallel_write", OBJECT, NULL, NEBULA),
N("checkpoint.parallel_write.pipeline_stage", BOOL, "false", NEBULA),
N("checkpoint.checkpoint_serialization", BOOL, "true", NEBULA),
N("checkpoint.writer", OBJECT, NULL, NEBULA),
N("checkpoint.writer.type", STRING, "\"FAST\"", NEBULA),
N("checkpoint.writer.io_buffer_size", INT, "67108864", NEBULA),
N("checkpoint.writer.io_buffer_double", BOOL, "true", NEBULA),
N("checkpoint.writer.show_statistics", BOOL, "false", NEBULA),
N("checkpoint.writer.data_parallel", STRING, NULL, NEBULA),
N("checkpoint.writer.decoupled", BOOL, "false", NEBULA),
N("checkpoint.writer.io_multiplier", INT, "1", NEBULA),
N("datastates_ckpt", OPEN, NULL, NEBULA),
N("nebula", OBJECT, NULL, NEBULA),
N("nebula.enabled", BOOL, "false", NEBULA), N("nebula.enable_nebula_load", BOOL, "true", NEBULA),
N("nebula.nebula_load_path", STRING, NULL, NEBULA),
N("nebula.persistent_storage_path", STRING, NULL, NEBULA),
N("nebula.persistent_time_interval", INT, "100", NEBULA),
N("nebula.num_of_version_in_retention", INT, "2", NEBULA),
N("wall_clock_breakdown", BOOL, "false", MEASURE), N("memory_breakdown", BOOL, "false", MEASURE),
N("dump_state", BOOL, "false", "the resolved configuration is written to the output directory"),
N("dataloader_drop_last", BOOL, "false", "batches are always full"),
N("graph_harvesting", BOOL, "false", TORCH), N("log_level", STRING, NULL, MEASURE),
N("timers", OBJECT, NULL, MEASURE), N("timers.throughput", OBJECT, NULL, MEASURE),
N("timers.throughput.enabled", BOOL, "true", MEASURE),
N("timers.throughput.synchronized", BOOL, "true", MEASURE),
N("compile", OPEN, NULL, TORCH),
N("compile.deepcompile", BOOL, "false", TORCH),
N("compile.offload_parameters", BOOL, "false", TORCH),
N("compile.offload_opt_states", BOOL, "false", TORCH),
N("compile.offload_activation", BOOL, "false", TORCH),
N("compile.offload_activation_pin_memory", BOOL, "true", TORCH),
N("compile.free_activation", BOOL, "false", TORCH),
N("compile.double_buffer", BOOL, "true", TORCH),
N("flops_profiler", OBJECT, NULL, MEASURE),
N("flops_profiler.enabled", BOOL, "false", MEASURE),
N("flops_profiler.recompute_fwd_factor", NUM, "0", MEASURE),
N("flops_profiler.profile_step", INT, "1", MEASURE),
N("flops_profiler.module_depth", INT, "-1", MEASURE),
N("flops_profiler.top_modules", INT, "1", MEASURE),
N("flops_profiler.detailed", BOOL, "true", MEASURE),
N("flops_profiler.output_file", STRING, NULL, MEASURE),
N("tensorboard", OBJECT, NULL, MONITOR),
N("tensorboard.enabled", BOOL, "false", MONITOR),
N("tensorboard.output_path", STRING, NULL, MONITOR),
N("tensorboard.job_name", STRING, "\"DeepSpeedJobName\"", MONITOR),
N("csv_monitor", OBJECT, NULL, MONITOR),
N("csv_monitor.enabled", BOOL, "false", MONITOR),
N("csv_monitor.output_path", STRING, NULL, MONITOR),
N("csv_monitor.job_name", STRING, "\"DeepSpeedJobName\"", MONITOR),
N("wandb", OBJECT, NULL, MONITOR),
N("wandb.enabled", BOOL, "false", MONITOR), N("wandb.group", STRING, NULL, MONITOR),
N("wandb.team", STRING, NULL, MONITOR), N("wandb.project", STRING, "\"deepspeed\"", MONITOR),
N("comet", OBJECT, NULL, MONITOR),
N("comet.enabled", BOOL, "false", MONITOR), N("comet.samples_log_interval", INT, "100", MONITOR),
N("comet.project", STRING, NULL, MONITOR), N("comet.workspace", STRING, NULL, MONITOR),
N("comet.api_key", STRING, NULL, MONITOR), N("comet.experiment_name", STRING, NULL, MONITOR),
N("comet.experiment_key", STRING, NULL, MONITOR), N("comet.online", BOOL, NULL, MONITOR),
N("comet.mode", STRING, NULL, MONITOR),
N("elasticity", OBJECT, NULL, ELASTIC),
R("elasticity.enabled", BOOL, "false", "the number of ranks is fixed; give the batch itself"),
N("elasticity.max_train_batch_size", INT, "2000", ELASTIC),
N("elasticity.micro_batch_sizes", ANY, "[2,4,6]", ELASTIC),
N("elasticity.min_gpus", INT, "1", ELASTIC), N("elasticity.max_gpus", INT, "10000", ELASTIC),
N("elasticity.min_time", INT, "0", ELASTIC),
N("elasticity.prefer_larger_batch", BOOL, "true", ELASTIC),
N("elasticity.ignore_non_elastic_batch_info", BOOL, "false", ELASTIC),
N("elasticity.version", NUM, "0.2", ELASTIC),
N("elasticity.model_parallel_size", INT, "1", ELASTIC),
N("elasticity.num_gpus_per_node", INT, "1", ELASTIC),
N("autotuning", OPEN, NULL, TUNER),
R("autotuning.enabled", BOOL, "false", "the planner decides from the budgets; see `strata plan`"),
N("autotuning.fast", BOOL, "true", TUNER), N("autotuning.results_dir", STRING, NULL, TUNER),
N("autotuning.exps_dir", STRING, NULL, TUNER), N("autotuning.overwrite", BOOL, "true", TUNER),
N("autotuning.start_profile_step", INT, "3", TUNER),
N("autotuning.end_profile_step", INT, "5", TUNER),
N("autotuning.metric", STRING, "\"throughput\"", TUNER),
N("autotuning.tuner_type", STRING, "\"gridsearch\"", TUNER),
N("autotuning.tuner_early_stopping", INT, "5", TUNER),
N("autotuning.tuner_num_trials", INT, "50", TUNER),
N("autotuning.min_train_batch_size", INT, "1", TUNER),
N("autotuning.max_train_batch_size", INT, NULL, TUNER),

/* ---- what would change the training itself ------------------------------------------------- */
N("hybrid_engine", OPEN, NULL, "it is off"),
R("hybrid_engine.enabled", BOOL, "false", "there is no inference engine beside training"),
N("data_efficiency", OPEN, NULL, "it is off"),
R("data_efficiency.enabled", BOOL, "false", "sampling and routing by difficulty are not there"),
N("curriculum_learning", OPEN, NULL, "it is off"),
R("curriculum_learning.enabled", BOOL, "false", "the sequence length is fixed"),
N("progressive_layer_drop", OPEN, NULL, "it is off"),
R("progressive_layer_drop.enabled", BOOL, "false", "every layer is computed"),
N("eigenvalue", OPEN, NULL, "it is off"),
R("eigenvalue.enabled", BOOL, "false", "quantisation by eigenvalue is not there"),
R("compression_training", ANY, NULL, "compression while training is not there"),
R("quantize_training", ANY, NULL, "quantisation while training is not there"),
R("weight_quantization", ANY, NULL, "quantisation while training is not there"),
R("sparse_attention", ANY, NULL, "attention is dense"),

/* ---- strata --------------------------------------------------------------------------------- */
#define S "strata."
OBJ("strata", "what DeepSpeed has no key for"),
{ .path = S "model", T(OBJECT), .help = "the model: a name such as \"gpt2-xl\", or an object" },
H(S "model.name", TIED, T(WORD), OFF(model.name), .choices = CHOICES({ "gpt2", 0 }, { "gpt2-medium", 0 },
  { "gpt2-large", 0 }, { "gpt2-xl", 0 }), .help = "a published model"),
H(S "model.family", T(WORD), .def = "\"gpt2\"", .choices = CHOICES({ "gpt2", 0 }),
  OFF(model.family), .reason = "GPT-2 is the family that is built in", .help = "architecture"),
H(S "model.n_layer", TIED, T(INT), .min = 1, .max = 1e6, OFF(model.n_layer), .help = "blocks"),
H(S "model.n_embd", TIED, T(INT), .min = 1, .max = 1e6, OFF(model.n_embd), .help = "width"),
H(S "model.n_head", TIED, T(INT), .min = 1, .max = 1e6, OFF(model.n_head),
  .help = "attention heads; divides n_embd"),
H(S "model.n_positions", TIED, T(INT), .min = 1, .max = 1e7, OFF(model.n_positions),
  .help = "longest sequence, in tokens"),
H(S "model.vocab_size", TIED, T(INT), .min = 1, .max = 1e8, OFF(model.vocab_size),
  .help = "tokens known"),
R(S "model.dropout", NUM, "0.0", "dropout is not built in; remove it"),
H(S "model.init_from", TIED, T(STRING), OFF(model.init_from),
  .help = "directory with model.safetensors and config.json to start from; unset: random"),
OBJ(S "data", "the text"),
H(S "data.train", TIED, T(STRING), OFF(data.train), .help = "file to train on"),
H(S "data.val", TIED, T(STRING), OFF(data.val), .help = "file to validate on; unset: a part of train"),
H(S "data.format", T(WORD), .def = "\"auto\"",
  .choices = CHOICES({ "auto", 0 }, { "bytes", 0 }, { "bin", 0 }), OFF(data.format),
  .help = "bytes (each byte is a token), bin (llm.c or nanoGPT tokens); auto: bin if named *.bin"),
H(S "data.seq_len", TIED, T(INT), .min = 1, .max = 1e7, OFF(data.seq_len),
  .help = "tokens of a sequence; unset: n_positions"),
H(S "data.held_out", T(NUM), .def = "0.05", .max = 0.5, OFF(data.held_out),
  .help = "share of train kept for validation when val is unset"),
H(S "data.eval_windows", T(INT), .def = "64", OFF(data.eval_windows),
  .help = "sequences of one evaluation; 0: all"),
OBJ(S "device", "where the model is computed"),
H(S "device.type", TIED, T(ENUM), .def = "\"auto\"", .choices = CHOICES({ "auto", ST_DEVICE_AUTO },
  { "host", ST_DEVICE_HOST }, { "cuda", ST_DEVICE_CUDA }), OFF(device),
  .help = "host (this machine's processor), cuda; auto: cuda where there is one"),
H(S "device.memory", T(SIZE), .min = 1 << 20, AUTO_IS("what the plan needs"), OFF(device_bytes),
  .help = "budget of device memory, a hard limit; unset: what the plan needs"),
OBJ(S "host", "pinned host memory"),
H(S "host.memory", T(SIZE), .min = 4096, AUTO_IS("what the plan needs"), OFF(host_bytes),
  .help = "budget of host memory, a hard limit; unset: what the plan needs"),
OBJ(S "optimizer", "the optimizer pass"),
H(S "optimizer.decay", TIED, T(ENUM), .def = "\"matrices\"", .choices = CHOICES({ "matrices",
  ST_DECAY_MATRICES }, { "all", ST_DECAY_ALL }), OFF(optimizer.decay),
  .help = "tensors that decay: matrices, or all (DeepSpeed's way)"),
H(S "optimizer.update", T(ENUM), .def = "\"auto\"", .choices = CHOICES({ "auto", ST_UPDATE_AUTO },
  { "immediate", ST_UPDATE_IMMEDIATE }, { "deferred", ST_UPDATE_DEFERRED },
  { "speculative", ST_UPDATE_SPECULATIVE }), OFF(optimizer.update),
  .help = "when units are updated: inside backward (immediate: clipping off; speculative: again "
	  "if the step clips), before their next forward (deferred), or what suits each (auto)"),
H(S "optimizer.moments", TIED, T(ENUM), .choices = CHOICES({ "fp32", STRATA_MOMENTS_F32 },
  { "bf16", STRATA_MOMENTS_BF16 }, { "int8", STRATA_MOMENTS_INT8 }), OFF(optimizer.moments),
  AUTO_IS("fp32, or what DeepSpeed's keys say"),
  .help = "how moments of matrices are kept: 4, 2 (rounded stochastically) or 1 byte each (in "
	  "blocks of 128); vectors keep fp32"),
OBJ(S "nvme", "the store on nvme_path"),
H(S "nvme.backend", T(WORD), .def = "\"auto\"", .choices = CHOICES({ "auto", 0 },
  { "io_uring", 0 }, { "threads", 0 }), OFF(nvme.backend),
  .help = "how I/O is done; auto: io_uring where it works"),
H(S "nvme.sqpoll", T(BOOL), .def = "false", OFF(nvme.sqpoll),
  .help = "io_uring: a kernel thread submits, which takes a core; where it cannot be had: a warning,\n"
	  "and the normal way"),
H(S "nvme.iopoll", T(BOOL), .def = "false", OFF(nvme.iopoll),
  .help = "io_uring: poll the drive for completions, which takes a core while I/O is in flight; where\n"
	  "a polled read fails (nvme.poll_queues is 0): a warning, and interrupts"),
H(S "nvme.checksum", T(BOOL), .def = "true", OFF(nvme.checksum),
  .help = "verify a checksum on every read"),
H(S "nvme.durability", T(ENUM), .def = "\"step\"", .choices = CHOICES({ "step",
  ST_DURABILITY_STEP }, { "none", ST_DURABILITY_NONE }), OFF(nvme.durability),
  .help = "step: every commit survives a crash; none: only an orderly stop can be resumed"),
H(S "nvme.commit_every", T(INT), .def = "1", .min = 1, .max = 1e9, OFF(nvme.commit_every),
  .help = "optimizer steps from commit to commit"),
H(S "nvme.keep", T(ENUM), .def = "\"always\"", .choices = CHOICES({ "always", ST_KEEP_ALWAYS },
  { "never", ST_KEEP_NEVER }), OFF(nvme.keep),
  .help = "the store once the last step is done: kept (the run can go on later) or removed"),
H(S "nvme.keep_every", T(INT), .def = "0", .max = 1e9, OFF(nvme.keep_every),
  .help = "optimizer steps from one independent copy of the state to the next (at the first commit\n"
	  "then; beside the store, shared blocks where the file system can); 0: none"),
H(S "nvme.verify", T(ENUM), .def = "\"read\"", .choices = CHOICES({ "read", ST_VERIFY_READ },
  { "open", ST_VERIFY_OPEN }), OFF(nvme.verify),
  .help = "checksums: read, each time that something is read; open: also all of it at --resume"),
H(S "nvme.weights", T(INTS), OFF(nvme.weights),
  .help = "share of each directory of nvme_path, in their order; unset: equal"),
H(S "nvme.spill", T(ENUM), .def = "\"auto\"", .choices = CHOICES({ "auto", ST_SPILL_AUTO },
  { "never", ST_SPILL_NEVER }), OFF(nvme.spill),
  .help = "gradients that do not fit the host budget: to nvme_path, or never (does not fit)"),
H(S "micro_batch_order", T(ENUM), .def = "\"vertical\"", .choices = CHOICES({ "vertical",
  ST_ORDER_VERTICAL }, { "horizontal", ST_ORDER_HORIZONTAL }), OFF(micro_batch_order),
  .help = "all micro batches of a layer before the next layer, or layer by layer for each"),
H(S "recompute", T(BOOL), .def = "true", OFF(recompute),
  .help = "compute a block's activations again in backward instead of keeping them"),
H(S "threads", TIED, T(INT), .def = "0", .max = 1024, OFF(threads),
  .help = "threads that compute; 0: all cores this process may use"),
H(S "steps", T(INT), .def = "1000", .min = 1, OFF(steps), .help = "optimizer steps in total"),
H(S "seed", TIED, T(INT), .def = "42", OFF(seed), .help = "of the initial weights and the data's order"),
H(S "output", T(STRING), .def = "\"strata-output\"", OFF(output),
  .help = "directory of the result, the log and run.json"),
H(S "eval_every", T(INT), .def = "0", OFF(eval_every),
  .help = "optimizer steps from evaluation to evaluation; 0: at the end"),
H(S "save_dtype", T(ENUM), .def = "\"fp32\"", .choices = PRECISIONS, OFF(save_dtype),
  .help = "type of model.safetensors: fp32 (the exact master weight) or bf16 (rounded)"),
};
/* clang-format on */

const struct st_key *st_config_keys(size_t *n)
{
	*n = ST_ARRAY_LEN(keys);
	return keys;
}

const struct st_key *st_key_find(const char *path, size_t len)
{
	for (size_t i = 0; i < ST_ARRAY_LEN(keys); i++)
		if (!strncmp(keys[i].path, path, len) && !keys[i].path[len])
			return &keys[i];
	return NULL;
}

const char *st_key_leaf(const char *path)
{
	const char *dot = strrchr(path, '.');

	return dot ? dot + 1 : path;
}

static bool is_child(const char *path, const char *parent)
{
	const char *leaf = st_key_leaf(path);
	size_t n = strlen(parent);

	if (!n)
		return leaf == path;
	return (size_t)(leaf - path) == n + 1 && !strncmp(path, parent, n);
}

/*
 * A name that is right but in the wrong object beats a name that is nearly right here; a name in
 * another object must be closer than half of its length to be believed at all.
 */
const char *st_key_nearest(const char *parent, const char *name, bool *is_here)
{
	const char *best = keys[0].path;
	unsigned best_cost = ~0u;

	for (size_t i = 0; i < ST_ARRAY_LEN(keys); i++) {
		bool here = is_child(keys[i].path, parent);
		unsigned d = st_edit_distance(name, st_key_leaf(keys[i].path));
		unsigned cost = 2 * d + (here ? 0 : 3 * (d > 0) + 1);

		if (cost < best_cost) {
			best_cost = cost;
			best = keys[i].path;
			*is_here = here;
		}
	}
	return best;
}

const char *st_key_type_text(const struct st_key *k)
{
	switch (k->type) {
	case ST_KEY_OBJECT:
	case ST_KEY_OPEN:
		return "an object in braces";
	case ST_KEY_BOOL:
		return "true or false";
	case ST_KEY_INT:
		return "a whole number";
	case ST_KEY_NUM:
		return "a number";
	case ST_KEY_SIZE:
		return "a size (bytes, or a string such as \"384MiB\")";
	case ST_KEY_STRING:
	case ST_KEY_WORD:
	case ST_KEY_ENUM:
		return "a string";
	case ST_KEY_PATHS:
		return "a string or a list of strings";
	case ST_KEY_PAIR:
		return "a list of two numbers";
	case ST_KEY_INTS:
		return "a list of whole numbers";
	case ST_KEY_ANY:
		break;
	}
	return "any value";
}
