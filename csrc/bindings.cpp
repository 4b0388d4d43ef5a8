// The Python face of the native kernels, and the only file that knows pybind11.
//
// Functions take plain integers: addresses (tensor.data_ptr()), sizes, strides in elements, dtype
// codes (common/status.h) and the raw stream. They allocate nothing, release the GIL, and return a
// status that ccdn_ops/backends/native.py turns into an exception.
#include <pybind11/pybind11.h>

#include <cstdint>

#include "common/cocs_loss.h"
#include "common/covariance_pool.h"
#include "common/ctm.h"
#include "common/dual_squeeze.h"
#include "common/excitation_gates.h"
#include "common/isqrt_cov.h"
#include "common/multi_excite.h"
#include "common/newton_schulz_sqrt.h"
#include "common/probe.h"
#include "common/status.h"
#include "cpu/parallel.h"

namespace py = pybind11;

namespace {

using Address = std::uintptr_t;

template <typename T = void>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

using ReleaseGil = py::call_guard<py::gil_scoped_release>;

ccdn::DualSqueezeShape dual_squeeze_shape(int dtype, int64_t batch, int64_t channels,
                                          int64_t positions, int64_t stride_b, int64_t stride_d,
                                          int64_t stride_n, int side, bool saves_gram, int terms,
                                          int rank, bool dense_gradient, Address coefficients) {
  ccdn::DualSqueezeShape shape{};
  shape.dtype = static_cast<ccdn::Dtype>(dtype);
  shape.batch = batch;
  shape.channels = channels;
  shape.positions = positions;
  shape.stride_b = stride_b;
  shape.stride_d = stride_d;
  shape.stride_n = stride_n;
  shape.side = static_cast<ccdn::Side>(side);
  shape.saves_gram = saves_gram;
  shape.terms = terms;
  shape.rank = rank;
  shape.dense_gradient = dense_gradient;
  shape.coefficients = at<const double>(coefficients);
  return shape;
}

void bind_dual_squeeze(py::module_& module) {
  py::class_<ccdn::DualSqueezeShape>(module, "DualSqueezeShape", py::module_local())
      .def(py::init(&dual_squeeze_shape), py::arg("dtype"), py::arg("batch"), py::arg("channels"),
           py::arg("positions"), py::arg("stride_b"), py::arg("stride_d"), py::arg("stride_n"),
           py::arg("side"), py::arg("saves_gram"), py::arg("terms"), py::arg("rank"),
           py::arg("dense_gradient"), py::arg("coefficients"));

  module.def("dual_squeeze_workspace_cpu", &ccdn::dual_squeeze_workspace_cpu, py::arg("shape"),
             py::arg("workers"), py::arg("backward"));
  module.def(
      "dual_squeeze_forward_cpu",
      [](const ccdn::DualSqueezeShape& shape, Address x, Address first, Address second,
         Address mean, Address trace, Address gram, Address workspace, int workers) {
        return static_cast<int>(ccdn::dual_squeeze_forward_cpu(shape, at(x), at(first), at(second),
                                                               at(mean), at(trace), at(gram),
                                                               at(workspace), workers));
      },
      ReleaseGil());
  module.def(
      "dual_squeeze_backward_cpu",
      [](const ccdn::DualSqueezeShape& shape, Address grad_first, Address grad_second, Address x,
         Address mean, Address trace, Address gram, Address grad_x, Address workspace,
         int workers) {
        return static_cast<int>(ccdn::dual_squeeze_backward_cpu(
            shape, at(grad_first), at(grad_second), at(x), at(mean), at(trace), at(gram),
            at(grad_x), at(workspace), workers));
      },
      ReleaseGil());

#ifdef CCDN_CUDA_ARCHS
  module.def("dual_squeeze_workspace_cuda", &ccdn::dual_squeeze_workspace_cuda, py::arg("shape"),
             py::arg("backward"));
  module.def(
      "dual_squeeze_forward_cuda",
      [](const ccdn::DualSqueezeShape& shape, Address x, Address first, Address second,
         Address mean, Address trace, Address gram, Address workspace, Address stream) {
        return static_cast<int>(ccdn::dual_squeeze_forward_cuda(shape, at(x), at(first), at(second),
                                                                at(mean), at(trace), at(gram),
                                                                at(workspace), at(stream)));
      },
      ReleaseGil());
  module.def(
      "dual_squeeze_backward_cuda",
      [](const ccdn::DualSqueezeShape& shape, Address grad_first, Address grad_second, Address x,
         Address mean, Address trace, Address gram, Address grad_x, Address workspace,
         Address stream) {
        return static_cast<int>(ccdn::dual_squeeze_backward_cuda(
            shape, at(grad_first), at(grad_second), at(x), at(mean), at(trace), at(gram),
            at(grad_x), at(workspace), at(stream)));
      },
      ReleaseGil());
#endif
}

void bind_excitation_gates(py::module_& module) {
  py::class_<ccdn::ExcitationGatesShape>(module, "ExcitationGatesShape", py::module_local())
      .def(py::init([](int dtype, int64_t batch, int64_t excitations, int64_t orders,
                       int64_t channels, int64_t hidden) {
             return ccdn::ExcitationGatesShape{
                 static_cast<ccdn::Dtype>(dtype), batch, excitations, orders, channels, hidden};
           }),
           py::arg("dtype"), py::arg("batch"), py::arg("excitations"), py::arg("orders"),
           py::arg("channels"), py::arg("hidden"));
  module.def("excitation_gates_workspace_cpu", &ccdn::excitation_gates_workspace_cpu,
             py::arg("shape"), py::arg("backward"));
  module.def(
      "excitation_gates_forward_cpu",
      [](const ccdn::ExcitationGatesShape& shape, Address first, Address second, Address reduce,
         Address reduce_bias, Address expand, Address expand_bias, Address gates, Address hidden,
         Address scales, Address workspace) {
        const ccdn::ExcitationGatesWeights weights{at(reduce), at(reduce_bias), at(expand),
                                                   at(expand_bias)};
        return static_cast<int>(ccdn::excitation_gates_forward_cpu(shape, at(first), at(second),
                                                                   weights, at(gates), at(hidden),
                                                                   at(scales), at(workspace)));
      },
      ReleaseGil());
  module.def(
      "excitation_gates_backward_cpu",
      [](const ccdn::ExcitationGatesShape& shape, Address grad_gates, Address first, Address second,
         Address reduce, Address reduce_bias, Address expand, Address expand_bias, Address hidden,
         Address scales, Address grad_first, Address grad_second, Address grad_reduce,
         Address grad_reduce_bias, Address grad_expand, Address grad_expand_bias,
         Address workspace) {
        const ccdn::ExcitationGatesWeights weights{at(reduce), at(reduce_bias), at(expand),
                                                   at(expand_bias)};
        const ccdn::ExcitationGatesGrads grads{at(grad_first),  at(grad_second),
                                               at(grad_reduce), at(grad_reduce_bias),
                                               at(grad_expand), at(grad_expand_bias)};
        return static_cast<int>(ccdn::excitation_gates_backward_cpu(
            shape, at(grad_gates), at(first), at(second), weights, at(hidden), at(scales), grads,
            at(workspace)));
      },
      ReleaseGil());

#ifdef CCDN_CUDA_ARCHS
  module.def("excitation_gates_workspace_cuda", &ccdn::excitation_gates_workspace_cuda,
             py::arg("shape"), py::arg("backward"));
  module.def(
      "excitation_gates_forward_cuda",
      [](const ccdn::ExcitationGatesShape& shape, Address first, Address second, Address reduce,
         Address reduce_bias, Address expand, Address expand_bias, Address gates, Address hidden,
         Address scales, Address stream) {
        const ccdn::ExcitationGatesWeights weights{at(reduce), at(reduce_bias), at(expand),
                                                   at(expand_bias)};
        return static_cast<int>(ccdn::excitation_gates_forward_cuda(
            shape, at(first), at(second), weights, at(gates), at(hidden), at(scales), at(stream)));
      },
      ReleaseGil());
  module.def(
      "excitation_gates_backward_cuda",
      [](const ccdn::ExcitationGatesShape& shape, Address grad_gates, Address first, Address second,
         Address reduce, Address reduce_bias, Address expand, Address expand_bias, Address hidden,
         Address scales, Address grad_first, Address grad_second, Address grad_reduce,
         Address grad_reduce_bias, Address grad_expand, Address grad_expand_bias, Address workspace,
         Address stream) {
        const ccdn::ExcitationGatesWeights weights{at(reduce), at(reduce_bias), at(expand),
                                                   at(expand_bias)};
        const ccdn::ExcitationGatesGrads grads{at(grad_first),  at(grad_second),
                                               at(grad_reduce), at(grad_reduce_bias),
                                               at(grad_expand), at(grad_expand_bias)};
        return static_cast<int>(ccdn::excitation_gates_backward_cuda(
            shape, at(grad_gates), at(first), at(second), weights, at(hidden), at(scales), grads,
            at(workspace), at(stream)));
      },
      ReleaseGil());
#endif
}

void bind_multi_excite(py::module_& module) {
  py::class_<ccdn::MultiExciteShape>(module, "MultiExciteShape", py::module_local())
      .def(
          py::init([](int dtype, int64_t batch, int64_t excitations, int64_t channels,
                      int64_t positions, bool channels_last, int64_t stride_b, int64_t stride_row) {
            return ccdn::MultiExciteShape{static_cast<ccdn::Dtype>(dtype),
                                          batch,
                                          excitations,
                                          channels,
                                          positions,
                                          channels_last,
                                          stride_b,
                                          stride_row};
          }),
          py::arg("dtype"), py::arg("batch"), py::arg("excitations"), py::arg("channels"),
          py::arg("positions"), py::arg("channels_last"), py::arg("stride_b"),
          py::arg("stride_row"));
  module.def(
      "multi_excite_forward_cpu",
      [](const ccdn::MultiExciteShape& shape, Address x, Address gates, Address out) {
        return static_cast<int>(ccdn::multi_excite_forward_cpu(shape, at(x), at(gates), at(out)));
      },
      ReleaseGil());
  module.def(
      "multi_excite_backward_cpu",
      [](const ccdn::MultiExciteShape& shape, Address grad_out, Address x, Address gates,
         Address grad_x, Address grad_gates) {
        return static_cast<int>(ccdn::multi_excite_backward_cpu(
            shape, at(grad_out), at(x), at(gates), at(grad_x), at(grad_gates)));
      },
      ReleaseGil());

#ifdef CCDN_CUDA_ARCHS
  module.def("multi_excite_workspace_cuda", &ccdn::multi_excite_workspace_cuda, py::arg("shape"));
  module.def(
      "multi_excite_forward_cuda",
      [](const ccdn::MultiExciteShape& shape, Address x, Address gates, Address out,
         Address stream) {
        return static_cast<int>(
            ccdn::multi_excite_forward_cuda(shape, at(x), at(gates), at(out), at(stream)));
      },
      ReleaseGil());
  module.def(
      "multi_excite_backward_cuda",
      [](const ccdn::MultiExciteShape& shape, Address grad_out, Address x, Address gates,
         Address grad_x, Address grad_gates, Address workspace, Address stream) {
        return static_cast<int>(
            ccdn::multi_excite_backward_cuda(shape, at(grad_out), at(x), at(gates), at(grad_x),
                                             at(grad_gates), at(workspace), at(stream)));
      },
      ReleaseGil());
#endif
}

#ifdef CCDN_CUDA_ARCHS
void bind_ctm(py::module_& module) {
  py::class_<ccdn::CtmShape>(module, "CtmShape", py::module_local())
      .def(py::init([](const ccdn::DualSqueezeShape& squeeze,
                       const ccdn::ExcitationGatesShape& gates,
                       const ccdn::MultiExciteShape& excite) {
             return ccdn::CtmShape{squeeze, gates, excite};
           }),
           py::arg("squeeze"), py::arg("gates"), py::arg("excite"));
  module.def("ctm_workspace_cuda", &ccdn::ctm_workspace_cuda, py::arg("shape"),
             py::arg("backward"));
  module.def(
      "ctm_forward_cuda",
      [](const ccdn::CtmShape& shape, Address x, Address reduce, Address reduce_bias,
         Address expand, Address expand_bias, Address excited, Address pooled, Address mean,
         Address second, Address trace, Address gram, Address gates, Address hidden, Address scales,
         Address workspace, Address stream) {
        return static_cast<int>(ccdn::ctm_forward_cuda(
            shape, at(x), {at(reduce), at(reduce_bias), at(expand), at(expand_bias)}, at(excited),
            at(pooled),
            {at(mean), at(second), at(trace), at(gram), at(gates), at(hidden), at(scales)},
            at(workspace), at(stream)));
      },
      ReleaseGil());
  module.def(
      "ctm_backward_cuda",
      [](const ccdn::CtmShape& shape, Address grad_excited, Address grad_pooled, Address x,
         Address reduce, Address reduce_bias, Address expand, Address expand_bias, Address mean,
         Address second, Address trace, Address gram, Address gates, Address hidden, Address scales,
         Address grad_x, Address grad_reduce, Address grad_reduce_bias, Address grad_expand,
         Address grad_expand_bias, Address workspace, Address stream) {
        return static_cast<int>(ccdn::ctm_backward_cuda(
            shape, at(grad_excited), at(grad_pooled), at(x),
            {at(reduce), at(reduce_bias), at(expand), at(expand_bias)},
            {at(mean), at(second), at(trace), at(gram), at(gates), at(hidden), at(scales)},
            at(grad_x),
            {nullptr, nullptr, at(grad_reduce), at(grad_reduce_bias), at(grad_expand),
             at(grad_expand_bias)},
            at(workspace), at(stream)));
      },
      ReleaseGil());
}
#endif

ccdn::CocsShape cocs_shape(int dtype, int64_t count, Address levels) {
  return {static_cast<ccdn::Dtype>(dtype), count, at<const ccdn::CocsLevel>(levels)};
}

void bind_cocs_loss(py::module_& module) {
  module.def(
      "cocs_loss_workspace_cpu",
      [](int dtype, int64_t count, Address levels, bool backward) {
        return ccdn::cocs_loss_workspace_cpu(cocs_shape(dtype, count, levels), backward);
      },
      ReleaseGil());
  module.def(
      "cocs_loss_forward_cpu",
      [](int dtype, int64_t count, Address levels, Address losses, Address sums,
         Address workspace) {
        return static_cast<int>(ccdn::cocs_loss_forward_cpu(cocs_shape(dtype, count, levels),
                                                            at(losses), at(sums), at(workspace)));
      },
      ReleaseGil());
  module.def(
      "cocs_loss_backward_cpu",
      [](int dtype, int64_t count, Address levels, Address grad_losses, Address sums,
         Address workspace) {
        return static_cast<int>(ccdn::cocs_loss_backward_cpu(
            cocs_shape(dtype, count, levels), at(grad_losses), at(sums), at(workspace)));
      },
      ReleaseGil());

#ifdef CCDN_CUDA_ARCHS
  module.def(
      "cocs_loss_workspace_cuda",
      [](int dtype, int64_t count, Address levels, bool backward) {
        return ccdn::cocs_loss_workspace_cuda(cocs_shape(dtype, count, levels), backward);
      },
      ReleaseGil());
  module.def(
      "cocs_loss_forward_cuda",
      [](int dtype, int64_t count, Address levels, Address losses, Address sums, Address workspace,
         Address stream) {
        return static_cast<int>(ccdn::cocs_loss_forward_cuda(
            cocs_shape(dtype, count, levels), at(losses), at(sums), at(workspace), at(stream)));
      },
      ReleaseGil());
  module.def(
      "cocs_loss_backward_cuda",
      [](int dtype, int64_t count, Address levels, Address grad_losses, Address sums,
         Address workspace, Address stream) {
        return static_cast<int>(ccdn::cocs_loss_backward_cuda(cocs_shape(dtype, count, levels),
                                                              at(grad_losses), at(sums),
                                                              at(workspace), at(stream)));
      },
      ReleaseGil());
#endif
}

void bind_covariance_pool(py::module_& module) {
  using Shape = ccdn::CovarianceShape;
  py::class_<Shape>(module, "CovarianceShape", py::module_local())
      .def(py::init([](int dtype, int64_t batch, int64_t channels, int64_t positions,
                       int64_t stride_b, int64_t stride_d, int64_t stride_n) {
             return Shape{static_cast<ccdn::Dtype>(dtype),
                          batch,
                          channels,
                          positions,
                          stride_b,
                          stride_d,
                          stride_n};
           }),
           py::arg("dtype"), py::arg("batch"), py::arg("channels"), py::arg("positions"),
           py::arg("stride_b"), py::arg("stride_d"), py::arg("stride_n"));
  module.def("covariance_pool_workspace_cpu", &ccdn::covariance_pool_workspace_cpu,
             py::arg("shape"), py::arg("workers"), py::arg("backward"));
  module.def(
      "covariance_pool_forward_cpu",
      [](const Shape& shape, Address x, Address covariance, Address trace, Address workspace,
         int workers) {
        return static_cast<int>(ccdn::covariance_pool_forward_cpu(
            shape, at(x), at(covariance), at(trace), at(workspace), workers));
      },
      ReleaseGil());
  module.def(
      "covariance_pool_backward_cpu",
      [](const Shape& shape, Address grad, Address x, Address trace, Address grad_x,
         Address workspace, int workers) {
        return static_cast<int>(ccdn::covariance_pool_backward_cpu(
            shape, at(grad), at(x), at(trace), at(grad_x), at(workspace), workers));
      },
      ReleaseGil());

#ifdef CCDN_CUDA_ARCHS
  module.def("covariance_pool_workspace_cuda", &ccdn::covariance_pool_workspace_cuda,
             py::arg("shape"), py::arg("backward"));
  module.def(
      "covariance_pool_forward_cuda",
      [](const Shape& shape, Address x, Address covariance, Address trace, Address workspace,
         Address stream) {
        return static_cast<int>(ccdn::covariance_pool_forward_cuda(
            shape, at(x), at(covariance), at(trace), at(workspace), at(stream)));
      },
      ReleaseGil());
  module.def(
      "covariance_pool_backward_cuda",
      [](const Shape& shape, Address grad, Address x, Address trace, Address grad_x,
         Address workspace, Address stream) {
        return static_cast<int>(ccdn::covariance_pool_backward_cuda(
            shape, at(grad), at(x), at(trace), at(grad_x), at(workspace), at(stream)));
      },
      ReleaseGil());
#endif
}

void bind_newton_schulz_sqrt(py::module_& module) {
  using Shape = ccdn::NewtonSchulzShape;
  py::class_<Shape>(module, "NewtonSchulzShape", py::module_local())
      .def(py::init([](int dtype, bool wide, int64_t batch, int64_t size, int iterations,
                       int slots) {
             return Shape{static_cast<ccdn::Dtype>(dtype), wide, batch, size, iterations, slots};
           }),
           py::arg("dtype"), py::arg("wide"), py::arg("batch"), py::arg("size"),
           py::arg("iterations"), py::arg("slots"));
  module.def("newton_schulz_sqrt_workspace_cpu", &ccdn::newton_schulz_sqrt_workspace_cpu,
             py::arg("shape"), py::arg("workers"), py::arg("backward"));
  module.def(
      "newton_schulz_sqrt_forward_cpu",
      [](const Shape& shape, Address a, Address root, Address trace, Address iterates,
         Address workspace, int workers) {
        return static_cast<int>(ccdn::newton_schulz_sqrt_forward_cpu(
            shape, at(a), at(root), at(trace), at(iterates), at(workspace), workers));
      },
      ReleaseGil());
  module.def(
      "newton_schulz_sqrt_backward_cpu",
      [](const Shape& shape, Address grad, Address a, Address trace, Address iterates,
         Address grad_a, Address workspace, int workers) {
        return static_cast<int>(ccdn::newton_schulz_sqrt_backward_cpu(
            shape, at(grad), at(a), at(trace), at(iterates), at(grad_a), at(workspace), workers));
      },
      ReleaseGil());

#ifdef CCDN_CUDA_ARCHS
  module.def("newton_schulz_sqrt_workspace_cuda", &ccdn::newton_schulz_sqrt_workspace_cuda,
             py::arg("shape"), py::arg("backward"));
  module.def(
      "newton_schulz_sqrt_forward_cuda",
      [](const Shape& shape, Address a, Address root, Address trace, Address iterates,
         Address workspace, Address stream) {
        return static_cast<int>(ccdn::newton_schulz_sqrt_forward_cuda(
            shape, at(a), at(root), at(trace), at(iterates), at(workspace), at(stream)));
      },
      ReleaseGil());
  module.def(
      "newton_schulz_sqrt_backward_cuda",
      [](const Shape& shape, Address grad, Address a, Address trace, Address iterates,
         Address grad_a, Address workspace, Address stream) {
        return static_cast<int>(
            ccdn::newton_schulz_sqrt_backward_cuda(shape, at(grad), at(a), at(trace), at(iterates),
                                                   at(grad_a), at(workspace), at(stream)));
      },
      ReleaseGil());
#endif
}

void bind_isqrt_cov(py::module_& module) {
  using Shape = ccdn::IsqrtCovShape;
  py::class_<Shape>(module, "IsqrtCovShape", py::module_local())
      .def(py::init([](const ccdn::CovarianceShape& features, bool wide, bool by_positions,
                       bool triangle, int iterations, int slots) {
             return Shape{features, wide, by_positions, triangle, iterations, slots};
           }),
           py::arg("features"), py::arg("wide"), py::arg("by_positions"), py::arg("triangle"),
           py::arg("iterations"), py::arg("slots"));
  module.def("isqrt_cov_workspace_cpu", &ccdn::isqrt_cov_workspace_cpu, py::arg("shape"),
             py::arg("workers"), py::arg("backward"));
  module.def(
      "isqrt_cov_forward_cpu",
      [](const Shape& shape, Address x, Address root, Address trace, Address iterates,
         Address workspace, int workers) {
        return static_cast<int>(ccdn::isqrt_cov_forward_cpu(shape, at(x), at(root), at(trace),
                                                            at(iterates), at(workspace), workers));
      },
      ReleaseGil());
  module.def(
      "isqrt_cov_backward_cpu",
      [](const Shape& shape, Address grad, Address x, Address trace, Address iterates,
         Address grad_x, Address workspace, int workers) {
        return static_cast<int>(ccdn::isqrt_cov_backward_cpu(
            shape, at(grad), at(x), at(trace), at(iterates), at(grad_x), at(workspace), workers));
      },
      ReleaseGil());

#ifdef CCDN_CUDA_ARCHS
  module.def("isqrt_cov_workspace_cuda", &ccdn::isqrt_cov_workspace_cuda, py::arg("shape"),
             py::arg("backward"));
  module.def(
      "isqrt_cov_forward_cuda",
      [](const Shape& shape, Address x, Address root, Address trace, Address iterates,
         Address workspace, Address stream) {
        return static_cast<int>(ccdn::isqrt_cov_forward_cuda(
            shape, at(x), at(root), at(trace), at(iterates), at(workspace), at(stream)));
      },
      ReleaseGil());
  module.def(
      "isqrt_cov_backward_cuda",
      [](const Shape& shape, Address grad, Address x, Address trace, Address iterates,
         Address grad_x, Address workspace, Address stream) {
        return static_cast<int>(ccdn::isqrt_cov_backward_cuda(shape, at(grad), at(x), at(trace),
                                                              at(iterates), at(grad_x),
                                                              at(workspace), at(stream)));
      },
      ReleaseGil());
#endif
}

py::tuple cuda_archs() {
#ifdef CCDN_CUDA_ARCHS
  // A string like "80 90 100 120", from setup.py.
  return py::tuple(py::str(CCDN_CUDA_ARCHS).attr("split")());
#else
  return py::tuple();
#endif
}

// The architecture that is there as PTX too, for devices newer than all of cuda_archs.
py::object cuda_ptx() {
#ifdef CCDN_CUDA_PTX
  return py::str(CCDN_CUDA_PTX);
#else
  return py::none();
#endif
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Native kernels of ccdn_ops, called through ccdn_ops.backends.native.";
  module.attr("interface") = ccdn::kInterface;
  module.attr("cuda_archs") = cuda_archs();
  module.attr("cuda_ptx") = cuda_ptx();
#ifdef CCDN_CUDA_ARCHS
  module.def("cuda_probe", [] {
    const ccdn::CudaProbe found = ccdn::cuda_probe();
    return py::make_tuple(found.error, found.words, found.runtime, found.driver);
  });
#endif
#ifdef __VERSION__
  module.attr("compiler") = __VERSION__;
#else
  module.attr("compiler") = "unknown";
#endif
  module.def(
      "set_parallel_for", [](Address address) { ccdn::set_parallel_for(at(address)); },
      py::arg("address"));
  module.def("has_parallel_for", [] { return ccdn::has_parallel_for(); });
  bind_covariance_pool(module);
  bind_dual_squeeze(module);
  bind_excitation_gates(module);
  bind_isqrt_cov(module);
  bind_multi_excite(module);
  bind_newton_schulz_sqrt(module);
  bind_cocs_loss(module);
#ifdef CCDN_CUDA_ARCHS
  bind_ctm(module);
#endif
}
