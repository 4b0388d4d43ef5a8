// The native kernels of an operator, called with torch's memory: what
// ccdn_ops/backends/cpu/binding.py does in Python.
#pragma once

#include <c10/core/CPUAllocator.h>
#include <c10/util/SmallVector.h>

#include <cstring>
#include <tuple>
#include <utility>

#include "tensors.h"

namespace ccdn_torch {

// What ccdn_ops._C hands out for the function of a kernel (csrc/bindings.py).
using Packed = int(Address shape, const Address* addresses, int workers);
using Addresses = c10::SmallVector<Address, 24>;
using Tensors = c10::SmallVector<Tensor, 8>;

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
    address_ = reinterpret_cast<Address>(own_.get() != nullptr ? own_.get() : last.get());
  }

  Address address() const { return address_; }

  static void forget() {
    last.clear();
    last_size = 0;
  }

 private:
  inline static thread_local c10::DataPtr last;
  inline static thread_local size_t last_size = 0;
  c10::DataPtr own_;
  Address address_;
};

// A form of a forward pass: its argument struct, where what it saves lies in one memory, and the
// bytes of its scratch memory.
struct Form {
  Address shape;
  std::vector<size_t> offsets;
  size_t scratch;
};

using GivenForm = std::tuple<Address, std::vector<size_t>, size_t>;

inline Form form(GivenForm given) {
  return {std::get<0>(given), std::move(std::get<1>(given)), std::get<2>(given)};
}

// The two native functions of an operator. They take, in this order:
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
        forward_(reinterpret_cast<Packed*>(forward)),
        backward_(reinterpret_cast<Packed*>(backward)),
        without_(form(std::move(without))),
        saving_(form(std::move(saving))),
        backward_scratch_(backward_scratch),
        outputs_(signatures(outputs)),
        gradients_(signatures(gradients)),
        saved_(unpacked(saved.ptr())),
        scratch_(scratch),
        zeros_(zeros),
        workers_(workers),
        kept_(kept) {}

  // (*inputs)
  py::object inference(Arguments inputs, size_t count) const {
    const Scratch scratch(without_.scratch, kept_);
    return run(without_, inputs, count, scratch, scratch.address());
  }

  // (*inputs)
  py::object forward(Arguments inputs, size_t count) const {
    const Scratch scratch(saving_.scratch, kept_);
    if (saving_.offsets.empty())
      return py::make_tuple(run(saving_, inputs, count, scratch, 0), py::tuple());
    const Tensor saved = empty(saved_);
    const auto memory = reinterpret_cast<Address>(saved.mutable_data_ptr());
    py::object outputs = run(saving_, inputs, count, scratch, memory);
    return py::make_tuple(std::move(outputs), py::make_tuple(wrapped(saved)));
  }

  // (gradients of the outputs, (*inputs, *saved))
  py::object backward(Arguments given, size_t count) const {
    check_count("arguments", count, 2);
    PyObject *grads = checked_tuple(given[0]), *tensors = checked_tuple(given[1]);
    const size_t inputs = gradients_.size();
    check_count("gradients", PyTuple_GET_SIZE(grads), outputs_.size());
    check_count("tensors", PyTuple_GET_SIZE(tensors), inputs + !saving_.offsets.empty());
    const Scratch scratch(backward_scratch_, kept_);
    Tensors upstream(outputs_.size());  // they stay until the kernel has read them
    Addresses addresses;
    for (size_t i = 0; i < outputs_.size(); ++i) {
      PyObject* grad = PyTuple_GET_ITEM(grads, i);
      if (grad != Py_None)
        upstream[i] = laid_out(unpacked(grad), outputs_[i]);
      else if (zeros_)
        upstream[i] = empty(outputs_[i]).zero_();
      addresses.push_back(upstream[i].defined() ? address(upstream[i]) : 0);
    }
    add_inputs(addresses, &PyTuple_GET_ITEM(tensors, 0));
    if (!saving_.offsets.empty()) {
      const Address memory = address(unpacked(PyTuple_GET_ITEM(tensors, inputs)));
      for (size_t offset : saving_.offsets) addresses.push_back(memory + offset);
    }
    Tensors made(inputs);
    for (size_t i = 0; i < inputs; ++i) {
      if (!gradients_[i].none) made[i] = empty(gradients_[i]);
      addresses.push_back(made[i].defined() ? address(made[i]) : 0);
    }
    launch("_backward", backward_, saving_.shape, addresses, scratch);
    py::tuple found(inputs);
    for (size_t i = 0; i < inputs; ++i)
      PyTuple_SET_ITEM(found.ptr(), i,
                       (made[i].defined() ? wrapped(made[i]) : py::none()).release().ptr());
    return std::move(found);
  }

 private:
  static const Tensor& unpacked(PyObject* x) {
    if (!THPVariable_Check(x)) throw py::type_error("expected a tensor");
    return THPVariable_Unpack(x);
  }

  static Address address(const Tensor& x) { return reinterpret_cast<Address>(x.const_data_ptr()); }

  void add_inputs(Addresses& addresses, Arguments tensors) const {
    for (size_t i = 0; i < gradients_.size(); ++i)
      addresses.push_back(gradients_[i].none ? 0 : address(unpacked(tensors[i])));
  }

  static py::object wrapped(const Tensor& x) { return owned(THPVariable_Wrap(x)); }

  // x, or a copy, with the strides of an output.
  static Tensor laid_out(const Tensor& x, const Signature& output) {
    return x.strides() == output.strides ? x : empty(output).copy_(x);
  }

  py::object run(const Form& form, Arguments inputs, size_t count, const Scratch& scratch,
                 Address memory) const {
    check_count("inputs", count, gradients_.size());
    Addresses addresses;
    add_inputs(addresses, inputs);
    Tensors made;
    for (const Signature& output : outputs_) {
      made.push_back(empty(output));
      addresses.push_back(address(made.back()));
    }
    for (size_t offset : form.offsets) addresses.push_back(memory + offset);
    launch("", forward_, form.shape, addresses, scratch);
    if (made.size() == 1) return wrapped(made[0]);
    py::tuple found(made.size());
    for (size_t i = 0; i < made.size(); ++i)
      PyTuple_SET_ITEM(found.ptr(), i, wrapped(made[i]).release().ptr());
    return std::move(found);
  }

  void launch(const char* pass, Packed* kernel, Address shape, Addresses& addresses,
              const Scratch& scratch) const {
    if (scratch_) addresses.push_back(scratch.address());
    // Not gil_scoped_release, which looks up more, and which no unwinding may pass: at exit Python
    // ends daemon threads in PyEval_RestoreThread.
    PyThreadState* const thread = PyEval_SaveThread();
    const int status = kernel(shape, addresses.data(), workers_);
    PyEval_RestoreThread(thread);
    if (status == 0) return;
    const py::object error = failure_(pass, status);
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
    throw py::error_already_set();
  }

  py::object failure_, owner_;
  Packed *forward_, *backward_;
  Form without_, saving_;
  size_t backward_scratch_;
  std::vector<Signature> outputs_, gradients_;
  Signature saved_;
  bool scratch_, zeros_;
  int workers_;
  int64_t kept_;
};

}  // namespace ccdn_torch
