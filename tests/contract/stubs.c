/* The C entry points through which TensorRT's Python extension reaches libnvinfer, libnvinfer_plugin and libnvonnxparser.
   They let the extension be imported where the libraries are absent. Every factory returns null, as libnvinfer's do without a
   CUDA device, so nothing that needs a device can be made. */
#include <stddef.h>
#include <stdint.h>

void *createInferBuilder_INTERNAL(void *logger, int32_t version) { return NULL; }
void *createInferRuntime_INTERNAL(void *logger, int32_t version) { return NULL; }
void *createInferRefitter_INTERNAL(void *engine, void *logger, int32_t version) { return NULL; }
void *createNvOnnxParser_INTERNAL(void *network, void *logger, int32_t version) { return NULL; }
void *createNvOnnxParserRefitter_INTERNAL(void *refitter, void *logger, int32_t version) { return NULL; }
int32_t getNvOnnxParserVersion(void) { return 0; }
void *getBuilderPluginRegistry(int32_t capability) { return NULL; }
void *getPluginRegistry(void) { return NULL; }
_Bool initLibNvInferPlugins(void *logger, const char *space) { return 1; }
