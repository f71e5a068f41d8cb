// A CUDA driver in software: enough of libcuda.so.1 for real pycuda and cuda-python to run on a CPU.
//
// Device memory is host memory, kernels are the project's own CUDA source compiled for the host (kernels_host.h). Compiled against
// NVIDIA's cuda.h, so every signature is the real one. What it is for: that calls come in the right order with the right
// arguments, from a thread with a current context, and that everything is freed. What it does not do: run GPU code, take time as
// a GPU would, or overlap anything.
//
// EDGEDIT_FAKE_GPU       JSON: name, compute_capability [8, 7], sm_count, memory_mb, integrated, driver "12.6", free_mb (optional).
//                        Without it there is no GPU.
// EDGEDIT_FAKE_CUDA_LAZY 1: nothing that is queued on a stream runs before somebody waits for it, so that whoever reads a result
//                        or reuses a buffer without waiting sees it. New memory holds 0xCD bytes in any case.
// EDGEDIT_FAKE_CUDA_GRAPH_MS  For benchmarks of host code: nothing is computed or copied; instead a graph or host function
//                        takes this long on a timeline that events read and that whoever waits for an event sleeps by.
// EDGEDIT_FAKE_KERNELS   shared library with double_launch_NAME for every kernel.

#include <cuda.h>
#include <dlfcn.h>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

typedef std::function<void()> Work;

struct CUgraph_st { std::vector<Work> nodes; };
struct CUgraphExec_st { std::vector<Work> nodes; };
struct CUstream_st { std::deque<Work> queue; CUgraph capture = nullptr; bool broken = false; };
struct CUevent_st { unsigned long asked = 0, done = 0; CUstream stream = nullptr; double ms = 0; };
struct CUmod_st { };
struct CUfunc_st { void (*launch)(const char *, const unsigned *, const unsigned *); };
struct CUctx_st { int unused; };

namespace {

std::recursive_mutex guard;
CUctx_st primary;
CUstream_st null_stream;
int retained = 0;
thread_local std::vector<CUcontext> contexts;
std::set<CUstream> streams;
std::set<CUevent> events;
std::map<std::string, CUfunc_st> functions;
std::map<void *, size_t> device_blocks, host_blocks;
std::map<std::string, long> calls;
int modules = 0, graphs = 0, execs = 0;
long left = 0;
double busy_until_ms = 0;  // the timeline

#define ENTER                                       \
  std::lock_guard<std::recursive_mutex> held(guard); \
  static long &called = calls[__func__];            \
  called++
#define NEED_CONTEXT if (contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT
// What waits, allocates or uses the default stream spoils a capture that is under way.
#define NOT_IN_CAPTURE if (spoil_captures()) return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT

bool spoil_captures() {
  bool any = false;
  for (CUstream s : streams)
    if (s->capture) any = s->broken = true;
  return any;
}

std::string field(const char *key, const char *otherwise) {
  const char *all = getenv("EDGEDIT_FAKE_GPU");
  std::string text = all ? all : "", name = std::string("\"") + key + "\"";
  size_t at = text.find(name);
  if (at == std::string::npos || (at = text.find(':', at)) == std::string::npos) return otherwise;
  at = text.find_first_not_of(" \t", at + 1);
  if (text[at] == '"') return text.substr(at + 1, text.find('"', at + 1) - at - 1);
  if (text[at] == '[') return text.substr(at + 1, text.find(']', at) - at - 1);
  return text.substr(at, text.find_first_of(",}", at) - at);
}

size_t memory_bytes() { return strtoull(field("memory_mb", "7620").c_str(), nullptr, 10) << 20; }
bool integrated() { return field("integrated", "true").substr(0, 4) == "true"; }
double graph_ms() { static const char *value = getenv("EDGEDIT_FAKE_CUDA_GRAPH_MS"); return value ? atof(value) : 0; }
bool lazy() { const char *value = getenv("EDGEDIT_FAKE_CUDA_LAZY"); return value && *value == '1'; }

int capability(int which) {
  std::string pair = field("compute_capability", "8, 7");
  return atoi(which ? pair.c_str() + pair.find(',') + 1 : pair.c_str());
}

double now_ms() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

size_t used_bytes() {
  size_t sum = 0;
  for (auto &block : device_blocks) sum += block.second;
  return sum;
}

size_t free_bytes() {
  std::string told = field("free_mb", "");
  size_t most = told.empty() ? memory_bytes() : strtoull(told.c_str(), nullptr, 10) << 20;
  return most > used_bytes() ? most - used_bytes() : 0;
}

CUstream real(CUstream s) { return s ? s : &null_stream; }

bool runs_next(CUstream s) {
  if (s->queue.empty()) return false;
  Work next = std::move(s->queue.front());
  s->queue.pop_front();
  next();
  return true;
}

void drain(CUstream s) { while (runs_next(s)) {} }

void drain_all() {
  drain(&null_stream);
  for (CUstream s : std::set<CUstream>(streams)) drain(s);
}

void reach(CUevent e, unsigned long ticket) {
  while (e->done < ticket && e->stream && runs_next(e->stream)) {}
}

void take_time() {
  const double now = now_ms();
  busy_until_ms = (now > busy_until_ms ? now : busy_until_ms) + graph_ms();
}

void enqueue(CUstream s, Work work) {
  s = real(s);
  if (graph_ms() && !s->capture) return;
  if (s->capture) s->capture->nodes.push_back(std::move(work));
  else if (lazy()) s->queue.push_back(std::move(work));
  else work();
}

CUresult allocate(std::map<void *, size_t> &blocks, void **out, size_t bytes) {
  if (!bytes) return CUDA_ERROR_INVALID_VALUE;
  if (bytes > free_bytes()) return CUDA_ERROR_OUT_OF_MEMORY;
  *out = aligned_alloc(512, (bytes + 511) / 512 * 512);
  if (!*out) return CUDA_ERROR_OUT_OF_MEMORY;
  memset(*out, 0xCD, bytes);
  blocks[*out] = bytes;
  return CUDA_SUCCESS;
}

CUresult release(std::map<void *, size_t> &blocks, void *block) {
  drain_all();
  if (!blocks.erase(block)) return CUDA_ERROR_INVALID_VALUE;
  free(block);
  return CUDA_SUCCESS;
}

}  // namespace

extern "C" {

// What is alive and how often each function was called, as JSON: for tests.
const char *double_state() {
  std::lock_guard<std::recursive_mutex> hold(guard);
  static std::string text;
  text = "{\"device_blocks\": " + std::to_string(device_blocks.size()) + ", \"host_blocks\": " + std::to_string(host_blocks.size()) +
         ", \"streams\": " + std::to_string(streams.size()) + ", \"events\": " + std::to_string(events.size()) +
         ", \"modules\": " + std::to_string(modules) + ", \"graphs\": " + std::to_string(graphs + execs) +
         ", \"contexts\": " + std::to_string(retained) + ", \"left\": " + std::to_string(left) +
         ", \"calls\": {";
  for (auto &call : calls) text += (text.back() == '{' ? "\"" : ", \"") + call.first + "\": " + std::to_string(call.second);
  return (text += "}}").c_str();
}

CUresult CUDAAPI cuInit(unsigned) { ENTER; return getenv("EDGEDIT_FAKE_GPU") && field("name", "") != "" ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE; }

CUresult CUDAAPI cuDriverGetVersion(int *version) {
  std::string text = field("driver", "12.6");
  *version = atoi(text.c_str()) * 1000 + atoi(text.c_str() + text.find('.') + 1) * 10;
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGetErrorString(CUresult error, const char **text) {
  *text = error == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : error == CUDA_ERROR_NO_DEVICE ? "no CUDA-capable device is detected"
        : error == CUDA_ERROR_INVALID_CONTEXT ? "invalid device context" : "error in the software driver";
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetCount(int *count) { ENTER; *count = 1; return CUDA_SUCCESS; }
CUresult CUDAAPI cuDeviceGet(CUdevice *device, int n) { ENTER; *device = 0; return n ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS; }
CUresult CUDAAPI cuDeviceTotalMem(size_t *bytes, CUdevice) { ENTER; *bytes = memory_bytes(); return CUDA_SUCCESS; }

CUresult CUDAAPI cuDeviceGetName(char *name, int length, CUdevice) {
  ENTER;
  snprintf(name, length, "%s", field("name", "Orin").c_str());
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceComputeCapability(int *major, int *minor, CUdevice) {
  ENTER;
  *major = capability(0);
  *minor = capability(1);
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice) {
  ENTER;
  switch (which) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = capability(0); break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = capability(1); break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = atoi(field("sm_count", "8").c_str()); break;
    case CU_DEVICE_ATTRIBUTE_INTEGRATED: *value = integrated(); break;
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY: *value = 1; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
    default: *value = 0;
  }
  return CUDA_SUCCESS;
}

// --- contexts ----------------------------------------------------------------------------------------------------------------

CUresult CUDAAPI cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice) { ENTER; retained++; *context = &primary; return CUDA_SUCCESS; }

// The last release destroys what is left in the context, but for memory, which the double wants to see freed.
CUresult CUDAAPI cuDevicePrimaryCtxRelease(CUdevice) {
  ENTER;
  if (!retained) return CUDA_ERROR_INVALID_CONTEXT;
  if (--retained) return CUDA_SUCCESS;
  left += streams.size() + events.size() + modules + graphs + execs;
  drain_all();
  streams.clear();
  events.clear();
  modules = graphs = execs = 0;
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxPushCurrent(CUcontext context) { ENTER; contexts.push_back(context); return CUDA_SUCCESS; }

CUresult CUDAAPI cuCtxPopCurrent(CUcontext *context) {
  ENTER;
  NEED_CONTEXT;
  if (context) *context = contexts.back();
  contexts.pop_back();
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetCurrent(CUcontext *context) { *context = contexts.empty() ? nullptr : contexts.back(); return CUDA_SUCCESS; }
CUresult CUDAAPI cuCtxGetDevice(CUdevice *device) { NEED_CONTEXT; *device = 0; return CUDA_SUCCESS; }
CUresult CUDAAPI cuCtxSynchronize(void) { ENTER; NEED_CONTEXT; NOT_IN_CAPTURE; drain_all(); return CUDA_SUCCESS; }

// --- memory ------------------------------------------------------------------------------------------------------------------

CUresult CUDAAPI cuMemGetInfo(size_t *left, size_t *total) {
  ENTER;
  NEED_CONTEXT;
  *left = free_bytes();
  *total = memory_bytes();
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemAlloc(CUdeviceptr *out, size_t bytes) {
  ENTER;
  NEED_CONTEXT;
  NOT_IN_CAPTURE;
  void *block = nullptr;
  CUresult result = allocate(device_blocks, &block, bytes);
  *out = (CUdeviceptr)block;
  return result;
}

CUresult CUDAAPI cuMemFree(CUdeviceptr block) { ENTER; NEED_CONTEXT; return release(device_blocks, (void *)block); }
CUresult CUDAAPI cuMemFreeHost(void *block) { ENTER; NEED_CONTEXT; return release(host_blocks, block); }

CUresult CUDAAPI cuMemHostAlloc(void **out, size_t bytes, unsigned) {
  ENTER;
  NEED_CONTEXT;
  NOT_IN_CAPTURE;
  return allocate(host_blocks, out, bytes);
}

CUresult CUDAAPI cuMemHostGetDevicePointer(CUdeviceptr *out, void *block, unsigned) {
  ENTER;
  NEED_CONTEXT;
  *out = (CUdeviceptr)block;
  return host_blocks.count(block) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t bytes) {
  ENTER;
  NEED_CONTEXT;
  NOT_IN_CAPTURE;
  drain_all();
  memcpy((void *)to, from, bytes);
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemcpyDtoH(void *to, CUdeviceptr from, size_t bytes) {
  ENTER;
  NEED_CONTEXT;
  NOT_IN_CAPTURE;
  drain_all();
  memcpy(to, (void *)from, bytes);
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t bytes, CUstream s) {
  ENTER;
  NEED_CONTEXT;
  enqueue(s, [=] { memcpy((void *)to, from, bytes); });
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t bytes, CUstream s) {
  ENTER;
  NEED_CONTEXT;
  enqueue(s, [=] { memcpy(to, (void *)from, bytes); });
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemsetD8(CUdeviceptr to, unsigned char value, size_t bytes) {
  ENTER;
  NEED_CONTEXT;
  NOT_IN_CAPTURE;
  drain_all();
  memset((void *)to, value, bytes);
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream s) {
  ENTER;
  NEED_CONTEXT;
  enqueue(s, [=] { memset((void *)to, value, bytes); });
  return CUDA_SUCCESS;
}

// --- streams and events ------------------------------------------------------------------------------------------------------

CUresult CUDAAPI cuStreamCreate(CUstream *s, unsigned) { ENTER; NEED_CONTEXT; streams.insert(*s = new CUstream_st); return CUDA_SUCCESS; }

CUresult CUDAAPI cuStreamDestroy(CUstream s) {
  ENTER;
  drain(s);
  if (!streams.erase(s)) return CUDA_ERROR_INVALID_HANDLE;
  delete s;
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamSynchronize(CUstream s) {
  ENTER;
  NEED_CONTEXT;
  if (real(s)->capture) {
    s->broken = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  drain(real(s));
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamQuery(CUstream s) { ENTER; NEED_CONTEXT; return real(s)->queue.empty() ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY; }

CUresult CUDAAPI cuStreamWaitEvent(CUstream s, CUevent e, unsigned) {
  ENTER;
  NEED_CONTEXT;
  unsigned long ticket = e->asked;
  enqueue(s, [=] { reach(e, ticket); });
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuLaunchHostFunc(CUstream s, CUhostFn function, void *data) {
  ENTER;
  NEED_CONTEXT;
  if (graph_ms() && !real(s)->capture) take_time();
  enqueue(s, [=] { function(data); });
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventCreate(CUevent *e, unsigned) { ENTER; NEED_CONTEXT; events.insert(*e = new CUevent_st); return CUDA_SUCCESS; }

CUresult CUDAAPI cuEventDestroy(CUevent e) {
  ENTER;
  drain_all();
  if (!events.erase(e)) return CUDA_ERROR_INVALID_HANDLE;
  delete e;
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventRecord(CUevent e, CUstream s) {
  ENTER;
  NEED_CONTEXT;
  unsigned long ticket = ++e->asked;
  e->stream = real(s);
  if (graph_ms()) {
    e->ms = busy_until_ms > now_ms() ? busy_until_ms : now_ms();
    e->done = ticket;
    return CUDA_SUCCESS;
  }
  enqueue(s, [=] { e->ms = now_ms(); e->done = ticket; });
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventSynchronize(CUevent e) {
  NEED_CONTEXT;
  if (graph_ms()) {
    for (double rest; (rest = e->ms - now_ms()) > 0;) std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(rest));
    return CUDA_SUCCESS;
  }
  ENTER;
  reach(e, e->asked);
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventQuery(CUevent e) { ENTER; NEED_CONTEXT; return e->done == e->asked ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY; }

CUresult CUDAAPI cuEventElapsedTime(float *ms, CUevent from, CUevent to) {
  ENTER;
  if (!from->asked || !to->asked) return CUDA_ERROR_INVALID_HANDLE;
  if (from->done < from->asked || to->done < to->asked) return CUDA_ERROR_NOT_READY;
  *ms = (float)(to->ms - from->ms);
  return CUDA_SUCCESS;
}

// --- kernels -----------------------------------------------------------------------------------------------------------------

CUresult CUDAAPI cuModuleLoadDataEx(CUmodule *module, const void *, unsigned, CUjit_option *, void **) {
  ENTER;
  NEED_CONTEXT;
  modules++;
  *module = new CUmod_st;
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuModuleLoadData(CUmodule *module, const void *image) { return cuModuleLoadDataEx(module, image, 0, nullptr, nullptr); }
CUresult CUDAAPI cuModuleUnload(CUmodule module) { ENTER; modules--; delete module; return CUDA_SUCCESS; }

CUresult CUDAAPI cuModuleGetFunction(CUfunction *function, CUmodule, const char *name) {
  ENTER;
  NEED_CONTEXT;
  const char *file = getenv("EDGEDIT_FAKE_KERNELS");
  void *library = file ? dlopen(file, RTLD_NOW) : nullptr;
  void *symbol = library ? dlsym(library, (std::string("double_launch_") + name).c_str()) : nullptr;
  if (!symbol) return CUDA_ERROR_NOT_FOUND;
  functions[name].launch = (void (*)(const char *, const unsigned *, const unsigned *))symbol;
  *function = &functions[name];
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuFuncSetCacheConfig(CUfunction, CUfunc_cache) { return CUDA_SUCCESS; }

CUresult CUDAAPI cuFuncSetBlockShape(CUfunction, int, int, int) { ENTER; return CUDA_SUCCESS; }

CUresult CUDAAPI cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned,
                                CUstream s, void **params, void **extra) {
  ENTER;
  NEED_CONTEXT;
  if (params || !extra || bx * by * bz > 1024 || !gx || !gy || !gz) return CUDA_ERROR_INVALID_VALUE;
  const char *packed = nullptr;
  size_t bytes = 0;
  for (void **item = extra; *item != CU_LAUNCH_PARAM_END; item += 2) {
    if (*item == CU_LAUNCH_PARAM_BUFFER_POINTER) packed = (const char *)item[1];
    if (*item == CU_LAUNCH_PARAM_BUFFER_SIZE) bytes = *(size_t *)item[1];
  }
  std::string copy(packed, bytes);
  enqueue(s, [=] {
    unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
    f->launch(copy.data(), grid, block);
  });
  return CUDA_SUCCESS;
}

// --- graphs ------------------------------------------------------------------------------------------------------------------

CUresult CUDAAPI cuStreamBeginCapture(CUstream s, CUstreamCaptureMode) {
  ENTER;
  NEED_CONTEXT;
  if (!s || s->capture) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  graphs++;
  s->capture = new CUgraph_st;
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamEndCapture(CUstream s, CUgraph *graph) {
  ENTER;
  if (!s->capture) return CUDA_ERROR_ILLEGAL_STATE;
  *graph = s->capture;
  s->capture = nullptr;
  if (!s->broken) return CUDA_SUCCESS;
  s->broken = false;
  graphs--;
  delete *graph;
  *graph = nullptr;
  return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
}

CUresult CUDAAPI cuStreamIsCapturing(CUstream s, CUstreamCaptureStatus *status) {
  *status = real(s)->capture ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphGetNodes(CUgraph graph, CUgraphNode *, size_t *count) { ENTER; *count = graph->nodes.size(); return CUDA_SUCCESS; }

CUresult CUDAAPI cuGraphInstantiate(CUgraphExec *exec, CUgraph graph, unsigned long long) {
  ENTER;
  execs++;
  *exec = new CUgraphExec_st{graph->nodes};
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphLaunch(CUgraphExec exec, CUstream s) {
  ENTER;
  NEED_CONTEXT;
  if (graph_ms()) take_time();
  for (Work &node : exec->nodes) enqueue(s, node);
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphDestroy(CUgraph graph) { ENTER; graphs--; delete graph; return CUDA_SUCCESS; }
CUresult CUDAAPI cuGraphExecDestroy(CUgraphExec exec) { ENTER; drain_all(); execs--; delete exec; return CUDA_SUCCESS; }

// cuda-python asks for every function by name and takes the newest form: with the suffix that cuda.h gave it here.
#undef cuGetProcAddress
CUresult CUDAAPI cuGetProcAddress_v2(const char *symbol, void **out, int, cuuint64_t, CUdriverProcAddressQueryResult *status) {
  std::string name = symbol;
  Dl_info self;
  void *library = dladdr((void *)cuGetProcAddress_v2, &self) ? dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD) : nullptr;
  *out = nullptr;
  if (name == "cuGetProcAddress") *out = (void *)cuGetProcAddress_v2;
  for (const char *suffix : {"_v4", "_v3", "_v2", "WithFlags", ""})
    if (library && !*out) *out = dlsym(library, (name + suffix).c_str());
  if (status) *status = *out ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  return *out ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

}  // extern "C"
