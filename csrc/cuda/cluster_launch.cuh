// What the driver can launch, asked once for each kernel and device.
#pragma once

#include <cuda_runtime.h>

#include <map>
#include <mutex>
#include <tuple>

#include "launch.cuh"

namespace ccdn::cuda {

// Whether both the device and the compiled code are of sm_90 or later: a newer device also runs the
// PTX of older ones.
inline cudaError_t ask_for_sm_90(const void* kernel, int device, bool& found) {
  int served = 0;
  cudaFuncAttributes attributes = {};
  found = false;
  cudaError_t error = cudaDeviceGetAttribute(&served, cudaDevAttrClusterLaunch, device);
  if (error != cudaSuccess || served == 0) return error;
  error = cudaFuncGetAttributes(&attributes, kernel);
  found = error == cudaSuccess && attributes.ptxVersion >= 90;
  return error;
}

// Whether this device can launch a cluster of the kernel: a small device, or a small part of one,
// may have too few multiprocessors side by side for so many blocks.
inline cudaError_t ask_for_clusters(const void* kernel, int device, int blocks, int threads,
                                    size_t bytes, bool& found) {
  cudaError_t error = ask_for_sm_90(kernel, device, found);
  if (!found) return error;
  int at_once = 0;
  const ClusterLaunch one(1, blocks, bytes, threads, nullptr);
  error = cudaOccupancyMaxActiveClusters(&at_once, kernel, &one.config);
  found = error == cudaSuccess && at_once > 0;
  if (error == cudaErrorInvalidClusterSize) {  // an answer as well
    cudaGetLastError();
    return cudaSuccess;
  }
  return error;
}

// The driver's answers, which take longer than a launch. Any thread may ask.
class DriverAnswers {
 public:
  static DriverAnswers& all() {
    static DriverAnswers answers;
    return answers;
  }

  enum class Question { clusters, overlap };

  // ask(device, found) is called once for a kernel and device. An error is no answer: it is left
  // for the next launch to report.
  template <typename Ask>
  bool to(Question question, const void* kernel, Ask ask) {
    int device = 0;
    if (cudaGetDevice(&device) != cudaSuccess) return false;
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto key = std::make_tuple(question, kernel, device);
    const auto place = known_.find(key);
    if (place != known_.end()) return place->second;
    bool found = false;
    if (ask(device, found) != cudaSuccess) return false;
    return known_[key] = found;
  }

  void forget() {
    const std::lock_guard<std::mutex> lock(mutex_);
    known_.clear();
  }

 private:
  std::mutex mutex_;
  std::map<std::tuple<Question, const void*, int>, bool> known_;
};

inline bool launches_clusters(const void* kernel, int blocks, int threads, size_t bytes) {
  using Question = DriverAnswers::Question;
  return DriverAnswers::all().to(Question::clusters, kernel, [&](int device, bool& found) {
    return ask_for_clusters(kernel, device, blocks, threads, bytes, found);
  });
}

// Whether launches of this kernel, and of those that are compiled with it, may overlap.
template <typename... Parameters>
bool overlaps(void (*kernel)(Parameters...)) {
  const auto address = reinterpret_cast<const void*>(kernel);
  using Question = DriverAnswers::Question;
  return DriverAnswers::all().to(Question::overlap, address, [&](int device, bool& found) {
    return ask_for_sm_90(address, device, found);
  });
}

}  // namespace ccdn::cuda
