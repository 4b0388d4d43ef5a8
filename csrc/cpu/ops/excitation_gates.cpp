// excitation_gates on the CPU: the phases of all networks, shared by the threads.
//
// Forward 2 B P O R D multiplications, backward 4. The order of summation depends on the shape
// alone, so results do not depend on the number of threads.
#include "cpu/engine/samples.h"
#include "cpu/ops/excitation_gates_job.h"

namespace ccdn {
namespace {

// Multiplications that a task does at least: a thread that is woken for less saves nothing.
constexpr int64_t kTaskWork = 1 << 18;

struct Phase {
  const ExcitationGatesJob* job;
  ExcitationGatesPhase kernel;
  int64_t blocks, units, step;  // a task takes `step` units
};

void run_task(int64_t task, void* context) noexcept {
  const Phase& phase = *static_cast<const Phase*>(context);
  const int64_t begin = task * phase.step;
  const int64_t end = begin + phase.step < phase.units ? begin + phase.step : phase.units;
  for (int64_t unit = begin; unit < end; ++unit) {
    phase.kernel(*phase.job, unit / phase.blocks, unit % phase.blocks);
  }
}

// `work` multiplications for each of outer * rows.
Status run(const ExcitationGatesJob& job, ExcitationGatesPhase kernel, int64_t outer, int64_t rows,
           int64_t work) {
  Phase phase{&job, kernel, (rows + kGateRows - 1) / kGateRows, 0, 1};
  phase.units = outer * phase.blocks;
  const int64_t unit_work = work * (rows < kGateRows ? rows : kGateRows);
  if (unit_work < kTaskWork) phase.step = (kTaskWork + unit_work - 1) / unit_work;
  return parallel_for((phase.units + phase.step - 1) / phase.step, run_task, &phase);
}

int64_t place(ExcitationGatesJob& job, bool backward, void* base) {
  const ExcitationGatesShape& s = *job.shape;
  const int64_t networks = s.excitations * s.orders, size = s.weights_dtype == Dtype::f64 ? 8 : 4;
  const bool narrow = s.dtype == Dtype::bf16 || s.dtype == Dtype::f16;
  const int64_t widened = narrow ? s.orders * s.batch * s.channels * size : 0;
  Arena arena = Arena::aligned(base);
  if (backward) {
    job.grad_logits = arena.take<char>(s.batch * networks * s.channels * size);
    job.grad_hidden = arena.take<char>(s.batch * networks * s.hidden * size);
    if (narrow) job.squeezes_wide = arena.take<char>(widened);
    return arena.used() + kSlotAlignment;
  }
  const int64_t lanes = CCDN_KERNELS(excitation_gates_kernels).lanes[s.weights_dtype == Dtype::f64];
  job.padded = (s.batch + lanes - 1) / lanes * lanes;
  // Vector operations of both stages: a product in the lanes ends with a sum over them, which costs
  // as much as 6.
  const int64_t dots =
      s.hidden * s.batch * (s.channels / lanes + 6) + s.channels * s.batch * (s.hidden / lanes + 6);
  const int64_t turned = 2 * s.hidden * s.channels * (job.padded / lanes);
  job.dot = dots < turned;
  if (!job.dot) {
    job.squeezes_turned = arena.take<char>(s.orders * s.channels * job.padded * size);
    job.hidden_turned = arena.take<char>(networks * s.hidden * job.padded * size);
  } else if (narrow) {
    job.squeezes_wide = arena.take<char>(widened);
  }
  return arena.used() + kSlotAlignment;
}

Status check(const ExcitationGatesShape& s) {
  for (const Dtype dtype : {s.dtype, s.weights_dtype}) {
    const int code = static_cast<int>(dtype);
    if (code < 0 || code > 3) return Status::unsupported_dtype;
  }
  if ((s.dtype == Dtype::f64) != (s.weights_dtype == Dtype::f64)) return Status::unsupported_dtype;
  if (s.batch < 1 || s.excitations < 1 || s.orders < 1 || s.orders > 2 || s.channels < 1 ||
      s.hidden < 1) {
    return Status::bad_argument;
  }
  return Status::ok;
}

}  // namespace

int64_t excitation_gates_workspace_cpu(const ExcitationGatesShape& shape, bool backward) {
  ExcitationGatesJob job{};
  job.shape = &shape;
  return place(job, backward, nullptr);
}

Status excitation_gates_forward_cpu(const ExcitationGatesShape& s, const void* first,
                                    const void* second, const ExcitationGatesWeights& weights,
                                    void* gates, void* hidden, void* scales,
                                    void* workspace) noexcept {
  Status status = check(s);
  if (status != Status::ok) return status;
  ExcitationGatesJob job{};
  job.shape = &s;
  job.squeezes[0] = first;
  job.squeezes[1] = second;
  job.weights = weights;
  job.gates = gates;
  job.hidden = hidden;
  job.scales = scales;
  place(job, false, workspace);
  const auto& phases =
      CCDN_KERNELS(excitation_gates_kernels).forward[static_cast<int>(s.weights_dtype)];
  const int64_t networks = s.excitations * s.orders;
  if (!job.dot || job.squeezes_wide) status = run(job, phases[0], s.orders, s.channels, s.batch);
  if (status == Status::ok) {
    status = run(job, phases[1], networks, s.hidden, s.batch * s.channels);
  }
  if (status == Status::ok) {
    status = run(job, phases[2], s.excitations, s.channels, s.batch * s.orders * s.hidden);
  }
  return status;
}

Status excitation_gates_backward_cpu(const ExcitationGatesShape& s, const void* grad_gates,
                                     const void* first, const void* second,
                                     const ExcitationGatesWeights& weights, const void* hidden,
                                     const void* scales, const ExcitationGatesGrads& grads,
                                     void* workspace) noexcept {
  Status status = check(s);
  if (status != Status::ok) return status;
  ExcitationGatesJob job{};
  job.shape = &s;
  job.squeezes[0] = first;
  job.squeezes[1] = second;
  job.weights = weights;
  job.hidden = const_cast<void*>(hidden);
  job.scales = const_cast<void*>(scales);
  job.grad_gates = grad_gates;
  job.grads = grads;
  place(job, true, workspace);
  const auto& phases =
      CCDN_KERNELS(excitation_gates_kernels).backward[static_cast<int>(s.weights_dtype)];
  const int64_t networks = s.excitations * s.orders;
  status = run(job, phases[0], networks, s.channels, s.batch * s.hidden);
  if (status == Status::ok) {
    status = run(job, phases[1], networks, s.hidden, 2 * s.batch * s.channels);
  }
  if (status == Status::ok) {
    status = run(job, phases[2], s.orders, s.channels, s.batch * s.excitations * s.hidden);
  }
  return status;
}

}  // namespace ccdn
