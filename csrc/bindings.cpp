// The Python face of the native kernels, which know neither pybind11 nor torch.
//
// Functions take plain integers: addresses (tensor.data_ptr()), sizes, strides in elements, dtype
// codes (common/status.h) and the raw stream. They allocate no tensor, release the GIL, and return
// a status that ccdn_ops/backends/native.py turns into an exception.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "common/probe.h"
#include "cpu/engine/dispatch.h"
#include "cpu/engine/parallel.h"

namespace py = pybind11;

namespace {

using Address = std::uintptr_t;

template <typename T = void>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

using ReleaseGil = py::call_guard<py::gil_scoped_release>;

// Every kernel of the CPU as a function of its argument struct and of addresses in one order:
// gradients of the outputs, inputs, outputs, what is saved, gradients of the inputs, scratch
// memory.
using Packed = int(Address shape, const Address* addresses, int workers);

}  // namespace

// Written by csrc/bindings.py from csrc/common/*.h: bind_operators(module), for every function and
// for every struct, with its members as keywords; and CCDN_INTERFACE, a digest of the declarations.
#include "bindings_operators.h"

namespace {

// cocs_loss takes the addresses of its levels in a table. Packed, they come in the order of all
// others, and a copy of the table is made at the beginning of the scratch memory.
class Levels {
 public:
  Levels(Address shape, const Address* inputs, const Address* gradients, Address scratch)
      : shape_(*at<const ccdn::CocsShape>(shape)), table_(at<ccdn::CocsLevel>(scratch)) {
    std::memcpy(table_, shape_.levels, shape_.count * sizeof(ccdn::CocsLevel));
    for (int64_t i = 0; i < shape_.count; ++i) {
      table_[i].x = static_cast<int64_t>(inputs[i]);
      table_[i].grad_x = static_cast<int64_t>(gradients[i]);
    }
    shape_.levels = table_;
  }

  const ccdn::CocsShape& shape() const { return shape_; }
  void* scratch() const { return table_ + shape_.count; }

 private:
  ccdn::CocsShape shape_;
  ccdn::CocsLevel* table_;
};

int cocs_loss_forward(Address shape, const Address* addresses, int) {
  const Address *inputs = addresses, *rest = inputs + at<const ccdn::CocsShape>(shape)->count;
  const Levels levels(shape, inputs, inputs, rest[2]);
  return static_cast<int>(
      ccdn::cocs_loss_forward_cpu(levels.shape(), at(rest[0]), at(rest[1]), levels.scratch()));
}

int cocs_loss_backward(Address shape, const Address* addresses, int) {
  const int64_t count = at<const ccdn::CocsShape>(shape)->count;
  const Address *inputs = addresses + 1, *gradients = inputs + count + 1;
  const Levels levels(shape, inputs, gradients, gradients[count]);
  return static_cast<int>(ccdn::cocs_loss_backward_cpu(levels.shape(), at(addresses[0]),
                                                       at(inputs[count]), levels.scratch()));
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

// The instruction set whose CPU kernels run, by the names of CCDN_CPU_ISA.
const char* cpu_isa() {
  if (ccdn::bf16_pairs() == ccdn::Pairs::instruction) return "avx512-bf16";
  switch (ccdn::isa()) {
    case ccdn::Isa::x86_64_v4:
      return "x86-64-v4";
    case ccdn::Isa::x86_64_v3:
      return "x86-64-v3";
    default:
      return "base";
  }
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Native kernels of ccdn_ops, called through ccdn_ops.backends.native.";
  // Python refuses a module with another digest than ccdn_ops/_C.pyi, instead of crashing in it.
  module.attr("interface") = CCDN_INTERFACE;
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
  module.def("cpu_isa", &cpu_isa);
  module.def("has_parallel_for", [] { return ccdn::has_parallel_for(); });
  bind_operators(module);
  const py::object packed = module.attr("packed");
  packed["cocs_loss_forward_cpu"] =
      reinterpret_cast<Address>(static_cast<Packed*>(&cocs_loss_forward));
  packed["cocs_loss_backward_cpu"] =
      reinterpret_cast<Address>(static_cast<Packed*>(&cocs_loss_backward));
  module.def(
      "call",
      [](Address function, Address shape, const std::vector<Address>& addresses, int workers) {
        return at<Packed>(function)(shape, addresses.data(), workers);
      },
      ReleaseGil());
}
