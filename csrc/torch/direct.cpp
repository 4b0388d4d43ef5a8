// The direct way of an eager call on torch's own tensors: ccdn_ops/ops/direct.py without Python.
//
// An optional module, ccdn_ops._direct_TORCH, for the one version of torch that it was compiled
// with; the kernels themselves stay in ccdn_ops._C, which knows no torch. Each class here does what
// a Python class of the same name does, and is used in its place: Recent and Expected of
// ccdn_ops/ops/recent.py, Kernels of ccdn_ops/backends/cpu/binding.py.
#include <ATen/Context.h>
#include <ATen/EmptyTensor.h>
#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/SavedTensorHooks.h>
#include <ATen/record_function.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace py = pybind11;

namespace {

using at::Tensor;
using Address = std::uintptr_t;
using Sizes = std::vector<int64_t>;

// What ccdn_ops._C hands out for the function of a kernel (csrc/bindings.py).
using Packed = int (*)(const void* shape, void* const* addresses, int workers);

// Tensors -----------------------------------------------------------------------------------------

// Exactly a Tensor or a Parameter, whose class changes nothing; null for all else.
const Tensor* exact(PyObject* object) {
  return THPVariable_CheckExact(object) ? &THPVariable_Unpack(object) : nullptr;
}

// The dispatch keys of a tensor in the CPU's memory, made within inference mode or not. With any
// other key a tensor has no such memory, or it is to be read otherwise.
struct Plain {
  c10::DispatchKeySet usual, inference;

  Plain() {
    for (bool mode : {false, true}) {
      c10::InferenceMode guard(mode);
      (mode ? inference : usual) = at::detail::empty_cpu({0}, at::kFloat).key_set();
    }
  }

  bool has(const Tensor& x) const {
    const auto keys = x.key_set();
    return keys == usual || keys == inference;
  }
};

const Plain& plain() {
  static const Plain found;
  return found;
}

struct Signature {
  at::ScalarType dtype{};
  Sizes sizes, strides;
  bool none = true;

  Signature() = default;
  explicit Signature(const Tensor& x)
      : dtype(x.scalar_type()), sizes(x.sizes().vec()), strides(x.strides().vec()), none(false) {}

  // Keys come first: a nested tensor, for example, has no sizes to read. A tensor whose memory was
  // given back has no address, and one in memory of others may lie anywhere.
  bool fits(const Tensor& x) const {
    if (!plain().has(x) || x.scalar_type() != dtype || x.sizes() != sizes || x.strides() != strides)
      return false;
    const auto address = reinterpret_cast<Address>(x.const_data_ptr());
    return address != 0 && address % x.itemsize() == 0;
  }

  bool fits(PyObject* object) const {
    if (object == Py_None) return none;
    const Tensor* x = none ? nullptr : exact(object);
    return x != nullptr && fits(*x);
  }
};

std::vector<Signature> signatures(const py::tuple& tensors) {
  std::vector<Signature> found;
  for (py::handle tensor : tensors)
    found.push_back(tensor.is_none() ? Signature() : Signature(THPVariable_Unpack(tensor.ptr())));
  return found;
}

bool fit(const std::vector<Signature>& expected, PyObject* tensors) {
  const auto count = static_cast<size_t>(PyTuple_GET_SIZE(tensors));
  if (count != expected.size()) return false;
  for (size_t i = 0; i < count; ++i)
    if (!expected[i].fits(PyTuple_GET_ITEM(tensors, i))) return false;
  return true;
}

// Whether nobody watches or changes what this thread does, as far as torch tells: no mode, no
// transform, no key that this thread adds to or takes from every tensor's, no trace, no profiler,
// no forward-mode level.
bool undisturbed() {
  // Not read from the thread: it may be disturbed when this is first asked.
  static const c10::impl::LocalDispatchKeySet usual(c10::impl::PODLocalDispatchKeySet{});
  static const auto inference = [] {
    auto keys = usual;
    keys.included_ = keys.included_.remove(c10::DispatchKey::ADInplaceOrView);
    keys.excluded_ = keys.excluded_ | c10::autograd_dispatch_keyset;
    return keys;
  }();
  const auto now = c10::impl::tls_local_dispatch_key_set();
  const auto cast = c10::autocast_dispatch_keyset;  // autocast does not change our operators
  const auto same = [&](const c10::impl::LocalDispatchKeySet& wanted) {
    return now.included_ == wanted.included_ && (now.excluded_ | cast) == (wanted.excluded_ | cast);
  };
  return (same(usual) || same(inference)) && at::impl::PythonTorchFunctionTLS::stack_len() == 0 &&
         !c10::impl::TorchDispatchModeTLS::any_modes_set() && !torch::jit::tracer::isTracing() &&
         !at::hasCallbacks() && torch::autograd::ForwardADLevel::try_get_by_idx(0) == nullptr;
}

py::object owned(PyObject* object) {
  if (object == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(object);
}

// Calls -------------------------------------------------------------------------------------------

// The calls that an operator has served.
class Recent {
 public:
  Recent(py::object apply, size_t most) : apply_(std::move(apply)), most_(most) {}

  void add(const py::tuple& inputs, py::tuple options, py::object state, py::object call) {
    auto entry = std::make_shared<Entry>();
    entry->inputs = signatures(inputs);
    entry->threads = at::get_num_threads();
    entry->inference = call.attr("bound").attr("inference");
    entry->options = std::move(options);
    entry->state = std::move(state);
    entry->call = std::move(call);
    for (size_t i = 0; i < entries_.size(); ++i)
      if (entries_[i]->call.is(entry->call)) {  // it was there, but could not be served
        std::swap(entries_[i], entry);
        return;
      }
    // What goes away may run Python that comes here again, so it goes when all is in order.
    std::vector<std::shared_ptr<Entry>> dropped;
    if (entries_.size() >= most_) dropped.swap(entries_);
    entries_.push_back(std::move(entry));
  }

  py::object serve(const py::tuple& inputs, const py::tuple& options, py::handle state) {
    if (!undisturbed()) return py::none();
    const std::shared_ptr<Entry> entry = find(inputs, options, state);
    if (entry == nullptr) return py::none();
    // Room for the call in front.
    std::vector<PyObject*> arguments(1 + inputs.size());
    bool differentiable = false;
    for (size_t i = 0; i < inputs.size(); ++i) {
      PyObject* input = PyTuple_GET_ITEM(inputs.ptr(), i);
      arguments[1 + i] = input;
      differentiable |= input != Py_None && THPVariable_Unpack(input).requires_grad();
    }
    if (differentiable && c10::GradMode::is_enabled()) {
      // The saved tensors would not be those of the general way.
      if (at::SavedTensorDefaultHooks::get_hooks().has_value()) return py::none();
      arguments[0] = entry->call.ptr();
      return owned(PyObject_Vectorcall(apply_.ptr(), arguments.data(), arguments.size(), nullptr));
    }
    return owned(PyObject_Vectorcall(entry->inference.ptr(), arguments.data() + 1,
                                     inputs.size() | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
  }

  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    std::vector<Signature> inputs;
    py::tuple options;
    py::object state, call, inference;
    int threads;
  };

  std::shared_ptr<Entry> find(const py::tuple& inputs, const py::tuple& options,
                              py::handle state) const {
    const int threads = at::get_num_threads();
    // The last one first: it is what a network calls again.
    for (auto it = entries_.rbegin(); it != entries_.rend(); ++it) {
      const Entry& entry = **it;
      if (entry.threads == threads && entry.state.is(state) && same(entry.options, options) &&
          fit(entry.inputs, inputs.ptr()))
        return *it;
    }
    return nullptr;
  }

  // Not ==, for which 1 is True; the checks tell them apart.
  static bool same(const py::tuple& one, const py::tuple& other) {
    if (one.size() != other.size()) return false;
    for (size_t i = 0; i < one.size(); ++i)
      if (PyTuple_GET_ITEM(one.ptr(), i) != PyTuple_GET_ITEM(other.ptr(), i)) return false;
    return true;
  }

  py::object apply_;
  size_t most_;
  std::vector<std::shared_ptr<Entry>> entries_;
};

// What a backward pass was given when it went directly.
class Expected {
 public:
  Expected(const py::tuple& grads, const py::tuple& saved)
      : grads_(signatures(grads)), saved_(signatures(saved)) {}

  bool fits(const py::tuple& grads, const py::tuple& saved) const {
    return !c10::GradMode::is_enabled() && undisturbed() && fit(grads_, grads.ptr()) &&
           fit(saved_, saved.ptr());
  }

 private:
  std::vector<Signature> grads_, saved_;
};

// Memory ------------------------------------------------------------------------------------------

// Whether torch.empty fills its memory, so that a test sees what nobody has written.
bool fills() {
  const at::Context& context = at::globalContext();
  return context.deterministicAlgorithms() && context.deterministicFillUninitializedMemory();
}

Tensor empty(const Signature& like) {
  if (fills()) return at::empty_strided(like.sizes, like.strides, at::TensorOptions(like.dtype));
  return Tensor(at::detail::empty_strided_cpu(like.sizes, like.strides, like.dtype));
}

// Uninitialised bytes for one call of a kernel; up to `kept` of them stay for the thread's next.
class Scratch {
 public:
  Scratch(size_t size, int64_t kept) {
    if (size > last_size) {
      own_ = c10::GetCPUAllocator()->allocate(size);
      if (fills()) std::memset(own_.get(), 0xff, size);
      if (static_cast<int64_t>(size) <= kept) {
        last = std::move(own_);
        last_size = size;
      }
    }
    address_ = own_.get() != nullptr ? own_.get() : last.get();
  }

  char* get() const { return static_cast<char*>(address_); }

  static void forget() {
    last.clear();
    last_size = 0;
  }

 private:
  static thread_local c10::DataPtr last;
  static thread_local size_t last_size;
  c10::DataPtr own_;
  void* address_;
};

thread_local c10::DataPtr Scratch::last;
thread_local size_t Scratch::last_size = 0;

// Kernels -----------------------------------------------------------------------------------------

// A form of a forward pass: its argument struct, where what it saves lies in one memory, and the
// bytes of its scratch memory.
struct Form {
  Address shape;
  std::vector<size_t> offsets;
  size_t scratch;
};

using GivenForm = std::tuple<Address, std::vector<size_t>, size_t>;

Form form(GivenForm given) {
  return {std::get<0>(given), std::move(std::get<1>(given)), std::get<2>(given)};
}

// The native functions of an operator. They take, in this order:
//   forward: inputs, outputs, what is saved, scratch memory
//   backward: gradients of the outputs, inputs, what is saved, gradients of the inputs, scratch
class Kernels {
 public:
  Kernels(Address forward, Address backward, py::object failure, py::object owner,
          GivenForm without, GivenForm saving, size_t backward_scratch, const py::tuple& outputs,
          const py::tuple& gradients, py::handle saved, bool scratch, bool zeros, int workers,
          int64_t kept)
      : failure_(std::move(failure)),
        owner_(std::move(owner)),
        forward_(reinterpret_cast<Packed>(forward)),
        backward_(reinterpret_cast<Packed>(backward)),
        without_(form(std::move(without))),
        saving_(form(std::move(saving))),
        backward_scratch_(backward_scratch),
        outputs_(signatures(outputs)),
        gradients_(signatures(gradients)),
        saved_(unpacked(saved)),
        scratch_(scratch),
        zeros_(zeros),
        workers_(workers),
        kept_(kept) {}

  py::object inference(const py::args& inputs) const {
    const Scratch scratch(without_.scratch, kept_);
    return run(without_, inputs, scratch, scratch.get());
  }

  py::tuple forward(const py::args& inputs) const {
    const Scratch scratch(saving_.scratch, kept_);
    if (saving_.offsets.empty())
      return py::make_tuple(run(saving_, inputs, scratch, nullptr), py::tuple());
    const Tensor saved = empty(saved_);
    auto* memory = static_cast<char*>(saved.mutable_data_ptr());
    py::object outputs = run(saving_, inputs, scratch, memory);
    return py::make_tuple(std::move(outputs), py::make_tuple(wrapped(saved)));
  }

  py::tuple backward(const py::tuple& grads, const py::tuple& tensors) const {
    const size_t inputs = gradients_.size();
    check("gradients", grads, outputs_.size());
    check("tensors", tensors, inputs + !saving_.offsets.empty());
    const Scratch scratch(backward_scratch_, kept_);
    std::vector<Tensor> upstream(outputs_.size());  // they stay until the kernel has read them
    std::vector<void*> addresses;
    for (size_t i = 0; i < outputs_.size(); ++i) {
      const py::handle grad = PyTuple_GET_ITEM(grads.ptr(), i);
      if (!grad.is_none())
        upstream[i] = laid_out(unpacked(grad), outputs_[i]);
      else if (zeros_)
        upstream[i] = empty(outputs_[i]).zero_();
      addresses.push_back(upstream[i].defined() ? address(upstream[i]) : nullptr);
    }
    add_inputs(addresses, tensors);
    if (!saving_.offsets.empty()) {
      auto* memory = static_cast<char*>(address(unpacked(PyTuple_GET_ITEM(tensors.ptr(), inputs))));
      for (size_t offset : saving_.offsets) addresses.push_back(memory + offset);
    }
    std::vector<Tensor> made(inputs);
    for (size_t i = 0; i < inputs; ++i) {
      if (!gradients_[i].none) made[i] = empty(gradients_[i]);
      addresses.push_back(made[i].defined() ? made[i].mutable_data_ptr() : nullptr);
    }
    launch("_backward", backward_, saving_.shape, addresses, scratch);
    py::tuple found(inputs);
    for (size_t i = 0; i < inputs; ++i)
      found[i] = made[i].defined() ? wrapped(made[i]) : py::object(py::none());
    return found;
  }

 private:
  static const Tensor& unpacked(py::handle x) {
    if (!THPVariable_Check(x.ptr())) throw py::type_error("expected a tensor");
    return THPVariable_Unpack(x.ptr());
  }

  // Kernels take addresses of what they only read as they take all others.
  static void* address(const Tensor& x) { return const_cast<void*>(x.const_data_ptr()); }

  void add_inputs(std::vector<void*>& addresses, const py::tuple& tensors) const {
    for (size_t i = 0; i < gradients_.size(); ++i) {
      const py::handle x = PyTuple_GET_ITEM(tensors.ptr(), i);
      addresses.push_back(gradients_[i].none ? nullptr : address(unpacked(x)));
    }
  }

  static void check(const char* what, const py::tuple& found, size_t expected) {
    if (found.size() == expected) return;
    throw py::type_error("found " + std::to_string(found.size()) + " " + what + ", expected " +
                         std::to_string(expected));
  }

  static py::object wrapped(const Tensor& x) { return owned(THPVariable_Wrap(x)); }

  // x, or a copy, with the strides of an output.
  static Tensor laid_out(const Tensor& x, const Signature& output) {
    return x.strides() == output.strides ? x : empty(output).copy_(x);
  }

  py::object run(const Form& form, const py::tuple& inputs, const Scratch& scratch,
                 char* memory) const {
    std::vector<void*> addresses;
    check("inputs", inputs, gradients_.size());
    add_inputs(addresses, inputs);
    std::vector<Tensor> made;
    for (const Signature& output : outputs_) {
      made.push_back(empty(output));
      addresses.push_back(made.back().mutable_data_ptr());
    }
    for (size_t offset : form.offsets) addresses.push_back(memory + offset);
    launch("", forward_, form.shape, addresses, scratch);
    if (made.size() == 1) return wrapped(made[0]);
    py::tuple found(made.size());
    for (size_t i = 0; i < made.size(); ++i) found[i] = wrapped(made[i]);
    return std::move(found);
  }

  void launch(const char* pass, Packed kernel, Address shape, std::vector<void*>& addresses,
              const Scratch& scratch) const {
    if (scratch_) addresses.push_back(scratch.get());
    int status = 0;
    {
      const py::gil_scoped_release release;
      status = kernel(reinterpret_cast<const void*>(shape), addresses.data(), workers_);
    }
    if (status == 0) return;
    const py::object error = failure_(pass, status);
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
    throw py::error_already_set();
  }

  py::object failure_, owner_;
  Packed forward_, backward_;
  Form without_, saving_;
  size_t backward_scratch_;
  std::vector<Signature> outputs_, gradients_;
  Signature saved_;
  bool scratch_, zeros_;
  int workers_;
  int64_t kept_;
};

}  // namespace

PYBIND11_MODULE(CCDN_MODULE, module) {
  module.doc() = "Direct calls of ccdn_ops, for the version of torch that it was compiled with.";
  module.attr("interface") = CCDN_INTERFACE;
  module.def("forget", &Scratch::forget);
  py::class_<Recent>(module, "Recent")
      .def(py::init<py::object, size_t>())
      .def("add", &Recent::add)
      .def("serve", &Recent::serve)
      .def("__len__", &Recent::size);
  py::class_<Expected>(module, "Expected")
      .def(py::init<const py::tuple&, const py::tuple&>())
      .def("fits", &Expected::fits);
  py::class_<Kernels>(module, "Kernels")
      .def(py::init<Address, Address, py::object, py::object, GivenForm, GivenForm, size_t,
                    const py::tuple&, const py::tuple&, py::handle, bool, bool, int, int64_t>(),
           py::kw_only(), py::arg("forward"), py::arg("backward"), py::arg("failure"),
           py::arg("owner"), py::arg("without"), py::arg("saving"), py::arg("backward_scratch"),
           py::arg("outputs"), py::arg("gradients"), py::arg("saved"), py::arg("scratch"),
           py::arg("zeros"), py::arg("workers"), py::arg("kept"))
      .def("inference", &Kernels::inference)
      .def("forward", &Kernels::forward)
      .def("backward", &Kernels::backward);
}
