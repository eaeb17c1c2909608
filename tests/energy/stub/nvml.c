/* A stand-in for libnvidia-ml.so.1 with a clock that the test sets and power that the test scripts.
 *
 * Each device draws P(t), whose integral E(t) is known in closed form. The energy counter shows E at the
 * device's last update, in millijoules, plus an offset; power is P at the last update, or its mean over the
 * last second. Types follow nvml.h; only what the meter calls is here.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
       INSUFFICIENT_SIZE = 7, GPU_IS_LOST = 15 };
enum { CONSTANT, RAMP, SQUARE, SINE, SPIKE };
enum { NO_COUNTER = 1, NO_POWER = 2, NO_INSTANT = 4, NO_GAUGES = 8, LOST = 16, NO_PROCESSES = 32 };
#define DEVICES 4
#define PIDS 4

typedef struct {
    char uuid[96], name[96], mig_uuid[96];
    int shape, missing, architecture, cc_major, cc_minor, mig;
    double base, amplitude, period, phase;    /* W, W, s, s */
    double update;                            /* s between sensor updates */
    double update_phase;
    unsigned limit_w;                         /* the highest power limit; 0: not supported */
    int64_t offset_mj;                        /* added to the counter; set at a reset to make it start at 0 */
    int pids[PIDS], n_pids;
} device_t;

static device_t devices[DEVICES];
static int n_devices = 0, initialised = 0;
static double now = 0.0;

/* ---- control, called by the tests through ctypes ---- */

void stub_reset(int count) {
    memset(devices, 0, sizeof devices);
    n_devices = count;
    now = 0.0;
    for (int i = 0; i < count; i++) {
        device_t *d = &devices[i];
        snprintf(d->uuid, sizeof d->uuid, "GPU-%08d-1111-2222-3333-444444444444", i + 10);
        snprintf(d->mig_uuid, sizeof d->mig_uuid, "MIG-%08d-5555-6666-7777-888888888888", i + 10);
        snprintf(d->name, sizeof d->name, "Stub GPU");
        d->base = 100.0;
        d->period = 1.0;
        d->update = 0.1;
        d->architecture = 7;
        d->cc_major = 8;
        d->cc_minor = 6;
    }
}

void stub_time(double seconds) { now = seconds; }
int stub_sessions(void) { return initialised; }

void stub_script(int i, int shape, double base, double amplitude, double period, double phase) {
    device_t *d = &devices[i];
    d->shape = shape; d->base = base; d->amplitude = amplitude; d->period = period; d->phase = phase;
}

void stub_sensor(int i, double update, double update_phase, int missing) {
    devices[i].update = update; devices[i].update_phase = update_phase; devices[i].missing = missing;
}

void stub_identity(int i, const char *uuid, const char *name, int architecture, int major, int minor, int mig) {
    device_t *d = &devices[i];
    snprintf(d->uuid, sizeof d->uuid, "%s", uuid);
    snprintf(d->name, sizeof d->name, "%s", name);
    d->architecture = architecture; d->cc_major = major; d->cc_minor = minor; d->mig = mig;
}

void stub_offset(int i, int64_t millijoules) { devices[i].offset_mj = millijoules; }

void stub_limit(int i, unsigned watts) { devices[i].limit_w = watts; }

void stub_processes(int i, int count, const int *pids) {
    devices[i].n_pids = count;
    for (int k = 0; k < count && k < PIDS; k++) devices[i].pids[k] = pids[k];
}

/* ---- the scripted physics ---- */

static double power(const device_t *d, double t) {
    double x = t + d->phase, f;
    switch (d->shape) {
    case RAMP: return d->base + d->amplitude * x;                  /* amplitude in W/s */
    case SQUARE: f = fmod(x, d->period); return d->base + (f < d->period / 2 ? d->amplitude : 0.0);
    case SINE: return d->base + d->amplitude * sin(2 * M_PI * x / d->period);
    case SPIKE: return d->base + (t >= d->phase && t < d->phase + d->period ? d->amplitude : 0.0);
    default: return d->base;
    }
}

static double square_integral(const device_t *d, double x) {
    double whole = floor(x / d->period), f = x - whole * d->period;
    return d->amplitude * (whole * d->period / 2 + fmin(f, d->period / 2));
}

static double energy(const device_t *d, double t) {              /* joules since t = 0 */
    double x = t + d->phase, w = 2 * M_PI / d->period;
    switch (d->shape) {
    case RAMP: return d->base * t + d->amplitude * (x * x - d->phase * d->phase) / 2;
    case SQUARE: return d->base * t + square_integral(d, x) - square_integral(d, d->phase);
    case SINE: return d->base * t + d->amplitude / w * (cos(w * d->phase) - cos(w * x));
    case SPIKE: return d->base * t + d->amplitude * fmin(fmax(t - d->phase, 0.0), d->period);
    default: return d->base * t;
    }
}

static double updated(const device_t *d) {                       /* time of the last sensor update */
    return d->update > 0 ? floor((now - d->update_phase) / d->update) * d->update + d->update_phase : now;
}

/* ---- NVML ---- */

typedef device_t *nvmlDevice_t;
#define MIG_BIT ((uintptr_t)1)                                   /* a MIG instance is its parent's pointer, marked */
static device_t *parent(nvmlDevice_t h) { return (device_t *)((uintptr_t)h & ~MIG_BIT); }
static int check(nvmlDevice_t h) {
    if (!initialised) return UNINITIALIZED;
    return (parent(h)->missing & LOST) ? GPU_IS_LOST : SUCCESS;
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; initialised++; return SUCCESS; }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { if (initialised) initialised--; return SUCCESS; }

const char *nvmlErrorString(int code) {
    switch (code) {
    case SUCCESS: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case NOT_SUPPORTED: return "Not Supported";
    case GPU_IS_LOST: return "GPU is lost";
    default: return "Stub Error";
    }
}

int nvmlDeviceGetCount_v2(unsigned *count) { *count = (unsigned)n_devices; return initialised ? SUCCESS : UNINITIALIZED; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *handle) {
    if (!initialised) return UNINITIALIZED;
    if (index >= (unsigned)n_devices) return INVALID_ARGUMENT;
    *handle = &devices[index];
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *handle) {
    for (int i = 0; i < n_devices; i++)
        if (!strcmp(devices[i].uuid, uuid)) { *handle = &devices[i]; return SUCCESS; }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(nvmlDevice_t h, char *uuid, unsigned length) {
    snprintf(uuid, length, "%s", ((uintptr_t)h & MIG_BIT) ? parent(h)->mig_uuid : h->uuid);
    return check(h);
}

int nvmlDeviceGetName(nvmlDevice_t h, char *name, unsigned length) {
    snprintf(name, length, "%s", parent(h)->name);
    return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t h, unsigned long long *mj) {
    int status = check(h);
    if (status) return status;
    if (h->missing & NO_COUNTER) return NOT_SUPPORTED;
    *mj = (unsigned long long)((int64_t)floor(energy(h, updated(h)) * 1e3) + h->offset_mj);
    return SUCCESS;
}

static unsigned milliwatts(double watts) { return (unsigned)llround(watts * 1e3); }

int nvmlDeviceGetPowerUsage(nvmlDevice_t h, unsigned *mw) {
    int status = check(h);
    if (status) return status;
    if (h->missing & NO_POWER) return NOT_SUPPORTED;
    int averages = h->architecture >= 7 && !(h->cc_major == 8 && h->cc_minor == 0);
    double t = updated(h);
    *mw = milliwatts(averages ? energy(h, t) - energy(h, t - 1.0) : power(h, t));
    return SUCCESS;
}

int nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t h, unsigned *least, unsigned *most) {
    if (!h->limit_w) return NOT_SUPPORTED;
    *least = 100000;
    *most = 1000 * h->limit_w;
    return SUCCESS;
}

typedef union { double d; unsigned ui; unsigned long ul; unsigned long long ull; long long sll; } value_t;
typedef struct {
    unsigned fieldId, scopeId;
    long long timestamp, latencyUsec;
    int valueType, nvmlReturn;
    value_t value;
} field_t;

int nvmlDeviceGetFieldValues(nvmlDevice_t h, int count, field_t *fields) {
    int status = check(h);
    if (status) return status;
    for (int i = 0; i < count; i++) {
        int known = fields[i].fieldId == 186 && !(h->missing & (NO_INSTANT | NO_POWER)); /* NVML_FI_DEV_POWER_INSTANT */
        fields[i].nvmlReturn = known ? SUCCESS : NOT_SUPPORTED;
        fields[i].value.ui = known ? milliwatts(power(h, updated(h))) : 0;
    }
    return SUCCESS;
}

int nvmlDeviceGetArchitecture(nvmlDevice_t h, unsigned *a) { *a = (unsigned)h->architecture; return SUCCESS; }

int nvmlDeviceGetCudaComputeCapability(nvmlDevice_t h, int *major, int *minor) {
    *major = h->cc_major; *minor = h->cc_minor;
    return SUCCESS;
}

int nvmlDeviceGetMigMode(nvmlDevice_t h, unsigned *current, unsigned *pending) {
    *current = *pending = (unsigned)h->mig;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t h, unsigned *count) { *count = h->mig ? 7 : 0; return SUCCESS; }

int nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t h, unsigned index, nvmlDevice_t *instance) {
    if (index != 1) return NOT_FOUND;                            /* one instance, in the second slot */
    *instance = (nvmlDevice_t)((uintptr_t)h | MIG_BIT);
    return SUCCESS;
}

typedef struct { unsigned gpu, memory; } utilisation_t;
int nvmlDeviceGetUtilizationRates(nvmlDevice_t h, utilisation_t *u) {
    if (h->missing & NO_GAUGES) return NOT_SUPPORTED;
    u->gpu = 87; u->memory = 12;
    return SUCCESS;
}

int nvmlDeviceGetClockInfo(nvmlDevice_t h, int type, unsigned *mhz) {
    if (h->missing & NO_GAUGES) return NOT_SUPPORTED;
    *mhz = type == 1 ? 1410 : 0;                                 /* NVML_CLOCK_SM */
    return SUCCESS;
}

int nvmlDeviceGetTemperature(nvmlDevice_t h, int sensor, unsigned *celsius) {
    (void)sensor;
    if (h->missing & NO_GAUGES) return NOT_SUPPORTED;
    *celsius = 61;
    return SUCCESS;
}

typedef struct { unsigned long long total, free, used; } memory_t;
int nvmlDeviceGetMemoryInfo(nvmlDevice_t h, memory_t *m) {
    if (h->missing & NO_GAUGES) return NOT_SUPPORTED;
    m->total = 16ull << 30; m->used = 3ull << 30; m->free = m->total - m->used;
    return SUCCESS;
}

typedef struct { unsigned pid; unsigned long long used; unsigned gi, ci; } process_t;
int nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t h, unsigned *count, process_t *list) {
    if (h->missing & NO_PROCESSES) return NOT_SUPPORTED;
    unsigned room = *count;
    *count = (unsigned)h->n_pids;
    if (h->n_pids == 0) return SUCCESS;
    if (list == NULL || room < *count) return INSUFFICIENT_SIZE;
    memset(list, 0, sizeof(process_t) * *count);
    for (int i = 0; i < h->n_pids; i++) list[i].pid = (unsigned)h->pids[i];
    return SUCCESS;
}
