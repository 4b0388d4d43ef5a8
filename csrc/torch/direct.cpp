// The direct way of an eager call on torch's own tensors: ccdn_ops/ops/direct.py without Python.
//
// An optional module, ccdn_ops._direct_TORCH, for the one version of torch that it was compiled
// with; the kernels themselves stay in ccdn_ops._C, which knows no torch. Each class does what a
// Python class of the same name does, and is used in its place: Recent and Expected of
// ccdn_ops/ops/recent.py, Kernels of ccdn_ops/backends/cpu/binding.py.
#include <ATen/Parallel.h>
#include <ATen/SavedTensorHooks.h>
#include <c10/core/GradMode.h>
#include <pybind11/stl.h>

#include <memory>

#include "kernels.h"

namespace ccdn_torch {
namespace {

// The calls that an operator has served.
class Recent {
 public:
  Recent(py::object apply, size_t most) : apply_(std::move(apply)), most_(most) {}

  void add(const py::tuple& inputs, py::tuple options, py::object state, py::object call) {
    auto entry = std::make_shared<Entry>();
    entry->inputs = signatures(inputs);
    entry->threads = at::get_num_threads();
    entry->inference = call.attr("bound").attr("inference");
    const py::object owner = py::getattr(entry->inference, "__self__", py::none());
    if (py::isinstance<Kernels>(owner)) entry->kernels = &owner.cast<const Kernels&>();
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

  // (inputs, options, state)
  py::object serve(Arguments arguments, size_t count) const {
    check_count("arguments", count, 3);
    PyObject *inputs = checked_tuple(arguments[0]), *options = checked_tuple(arguments[1]);
    if (!undisturbed()) return py::none();
    const std::shared_ptr<Entry> entry = find(inputs, options, arguments[2]);
    if (entry == nullptr) return py::none();
    const auto given = static_cast<size_t>(PyTuple_GET_SIZE(inputs));
    const Arguments first = &PyTuple_GET_ITEM(inputs, 0);
    if (c10::GradMode::is_enabled() && differentiable(first, given)) {
      // The saved tensors would not be those of the general way.
      if (at::SavedTensorDefaultHooks::get_hooks().has_value()) return py::none();
      c10::SmallVector<PyObject*, 16> passed{entry->call.ptr()};
      passed.append(first, first + given);
      return owned(PyObject_Vectorcall(apply_.ptr(), passed.data(), passed.size(), nullptr));
    }
    if (entry->kernels != nullptr) return entry->kernels->inference(first, given);
    return owned(PyObject_Vectorcall(entry->inference.ptr(), first, given, nullptr));
  }

  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    std::vector<Signature> inputs;
    py::tuple options;
    py::object state, call, inference;
    const Kernels* kernels = nullptr;  // if inference is theirs
    int threads;
  };

  static bool differentiable(Arguments inputs, size_t count) {
    for (size_t i = 0; i < count; ++i)
      if (inputs[i] != Py_None && THPVariable_Unpack(inputs[i]).requires_grad()) return true;
    return false;
  }

  std::shared_ptr<Entry> find(PyObject* inputs, PyObject* options, PyObject* state) const {
    const int threads = at::get_num_threads();
    // The last one first: it is what a network calls again.
    for (auto it = entries_.rbegin(); it != entries_.rend(); ++it) {
      const Entry& entry = **it;
      if (entry.threads == threads && entry.state.ptr() == state &&
          same(entry.options.ptr(), options) && fit(entry.inputs, inputs))
        return *it;
    }
    return nullptr;
  }

  // Not ==, for which 1 is True; the checks tell them apart.
  static bool same(PyObject* one, PyObject* other) {
    const Py_ssize_t count = PyTuple_GET_SIZE(one);
    if (count != PyTuple_GET_SIZE(other)) return false;
    for (Py_ssize_t i = 0; i < count; ++i)
      if (PyTuple_GET_ITEM(one, i) != PyTuple_GET_ITEM(other, i)) return false;
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

  // (grads, saved)
  py::object fits(Arguments arguments, size_t count) const {
    check_count("arguments", count, 2);
    PyObject *grads = checked_tuple(arguments[0]), *saved = checked_tuple(arguments[1]);
    return py::bool_(!c10::GradMode::is_enabled() && undisturbed() && fit(grads_, grads) &&
                     fit(saved_, saved));
  }

 private:
  std::vector<Signature> grads_, saved_;
};

}  // namespace
}  // namespace ccdn_torch

PYBIND11_MODULE(CCDN_MODULE, module) {
  using namespace ccdn_torch;
  module.doc() = "Direct calls of ccdn_ops, for the version of torch that it was compiled with.";
  module.attr("interface") = CCDN_INTERFACE;
  module.def("forget", &Scratch::forget);

  py::class_<Recent> recent(module, "Recent", py::module_local());
  recent.def(py::init<py::object, size_t>()).def("add", &Recent::add).def("__len__", &Recent::size);
  add_method<Recent, &Recent::serve>(recent, "serve");

  py::class_<Expected> expected(module, "Expected", py::module_local());
  expected.def(py::init<const py::tuple&, const py::tuple&>());
  add_method<Expected, &Expected::fits>(expected, "fits");

  py::class_<Kernels> kernels(module, "Kernels", py::module_local());
  kernels.def(py::init<Address, Address, py::object, py::object, GivenForm, GivenForm, size_t,
                       const py::tuple&, const py::tuple&, py::handle, bool, bool, int, int64_t>(),
              py::kw_only(), py::arg("forward"), py::arg("backward"), py::arg("failure"),
              py::arg("owner"), py::arg("without"), py::arg("saving"), py::arg("backward_scratch"),
              py::arg("outputs"), py::arg("gradients"), py::arg("saved"), py::arg("scratch"),
              py::arg("zeros"), py::arg("workers"), py::arg("kept"));
  add_method<Kernels, &Kernels::inference>(kernels, "inference");
  add_method<Kernels, &Kernels::forward>(kernels, "forward");
  add_method<Kernels, &Kernels::backward>(kernels, "backward");
}
