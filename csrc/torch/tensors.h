// What a direct call asks of tensors and of the thread (ccdn_ops/ops/plain.py), and empty tensors.
#pragma once

#include <ATen/Context.h>
#include <ATen/EmptyTensor.h>
#include <ATen/Functions.h>
#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/record_function.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <cxxabi.h>
#include <pybind11/pybind11.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <string>
#include <type_traits>
#include <vector>

namespace ccdn_torch {

namespace py = pybind11;
using at::Tensor;
using Address = std::uintptr_t;
using Sizes = std::vector<int64_t>;

// Exactly a Tensor or a Parameter, whose class changes nothing; null for all else.
inline const Tensor* exact(PyObject* object) {
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

inline const Plain& plain() {
  static const Plain found;
  return found;
}

struct Signature {
  at::ScalarType dtype{};
  Sizes sizes, strides;
  bool none = true;
  bool usual = false;  // the strides are those of torch.empty

  Signature() = default;
  explicit Signature(const Tensor& x)
      : dtype(x.scalar_type()), sizes(x.sizes().vec()), strides(x.strides().vec()), none(false) {
    // Not is_contiguous(), for which any stride along a size of 1 will do.
    int64_t step = 1;
    usual = true;
    for (size_t i = sizes.size(); i-- > 0; step *= std::max<int64_t>(sizes[i], 1))
      usual = usual && strides[i] == step;
  }

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

inline std::vector<Signature> signatures(const py::tuple& tensors) {
  std::vector<Signature> found;
  for (py::handle tensor : tensors)
    found.push_back(tensor.is_none() ? Signature() : Signature(THPVariable_Unpack(tensor.ptr())));
  return found;
}

inline bool fit(const std::vector<Signature>& expected, PyObject* tensors) {
  const auto count = static_cast<size_t>(PyTuple_GET_SIZE(tensors));
  if (count != expected.size()) return false;
  for (size_t i = 0; i < count; ++i)
    if (!expected[i].fits(PyTuple_GET_ITEM(tensors, i))) return false;
  return true;
}

// The key of named tensors, where torch has it: torch 2.10 excludes it in backward passes.
template <class Key, class = void>
constexpr c10::DispatchKeySet named_keys{};
template <class Key>
constexpr c10::DispatchKeySet named_keys<Key, std::void_t<decltype(Key::Named)>>{Key::Named};

// Whether nobody watches or changes what this thread does, as far as torch tells: no mode, no
// transform, no key that this thread adds to or takes from every tensor's, no trace, no profiler,
// no forward-mode level.
inline bool undisturbed() {
  // Not read from the thread: it may be disturbed when this is first asked.
  static const c10::impl::LocalDispatchKeySet usual(c10::impl::PODLocalDispatchKeySet{});
  static const auto inference = [] {
    auto keys = usual;
    keys.included_ = keys.included_.remove(c10::DispatchKey::ADInplaceOrView);
    keys.excluded_ = keys.excluded_ | c10::autograd_dispatch_keyset;
    return keys;
  }();
  const auto now = c10::impl::tls_local_dispatch_key_set();
  // Autocast does not change our operators, and our tensors have no names.
  const auto any = c10::autocast_dispatch_keyset | named_keys<c10::DispatchKey>;
  const auto same = [&](const c10::impl::LocalDispatchKeySet& wanted) {
    return now.included_ == wanted.included_ && (now.excluded_ | any) == (wanted.excluded_ | any);
  };
  return (same(usual) || same(inference)) && at::impl::PythonTorchFunctionTLS::stack_len() == 0 &&
         !c10::impl::TorchDispatchModeTLS::any_modes_set() && !torch::jit::tracer::isTracing() &&
         !at::hasCallbacks() && torch::autograd::ForwardADLevel::try_get_by_idx(0) == nullptr;
}

inline py::object owned(PyObject* object) {
  if (object == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(object);
}

// Whether torch.empty fills its memory, so that a test sees what nobody has written.
inline bool fills() {
  const at::Context& context = at::globalContext();
  return context.deterministicAlgorithms() && context.deterministicFillUninitializedMemory();
}

inline Tensor empty(const Signature& like) {
  if (fills()) return at::empty_strided(like.sizes, like.strides, at::TensorOptions(like.dtype));
  if (like.usual) return Tensor(at::detail::empty_cpu(like.sizes, like.dtype));
  return Tensor(at::detail::empty_strided_cpu(like.sizes, like.strides, like.dtype));
}

// Methods that Python calls without pybind11's dispatch, which takes as long as a small kernel.
// `method` of the class is given the arguments and how many there are.
using Arguments = PyObject* const*;

template <class T, py::object (T::*method)(Arguments, size_t) const>
PyObject* called(PyObject* self, Arguments arguments, Py_ssize_t count) {
  try {
    const T& object = py::handle(self).cast<const T&>();
    return (object.*method)(arguments, static_cast<size_t>(count)).release().ptr();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const py::builtin_exception& error) {
    error.set_error();
#ifdef __GLIBCXX__
  } catch (abi::__forced_unwind&) {  // Python ends a thread that comes back from a kernel at exit
    throw;
#endif
  } catch (...) {
    torch::translate_exception_to_python(std::current_exception());
  }
  return nullptr;
}

template <class T, py::object (T::*method)(Arguments, size_t) const>
void add_method(py::class_<T>& type, const char* name) {
  static PyMethodDef definition{};
  definition.ml_name = name;
  definition.ml_meth =
      reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&called<T, method>));
  definition.ml_flags = METH_FASTCALL;
  type.attr(name) =
      owned(PyDescr_NewMethod(reinterpret_cast<PyTypeObject*>(type.ptr()), &definition));
}

inline void check_count(const char* what, size_t found, size_t expected) {
  if (found == expected) return;
  throw py::type_error("found " + std::to_string(found) + " " + what + ", expected " +
                       std::to_string(expected));
}

inline PyObject* checked_tuple(PyObject* object) {
  if (!PyTuple_Check(object)) throw py::type_error("expected a tuple");
  return object;
}

}  // namespace ccdn_torch
