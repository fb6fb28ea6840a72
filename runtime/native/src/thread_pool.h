// How many threads compiled code uses; as runtime/threads.py.
#ifndef HEDDLE_THREAD_POOL_H_
#define HEDDLE_THREAD_POOL_H_

namespace heddle {

// `threads`, or where that is 0 TVM_NUM_THREADS, or the physical cores of this process. Error where that cannot be.
int thread_count(int threads);

// Use `count` threads in compiled code that this thread calls, from now on. Error where this thread's pool has fewer.
void set_threads(int count);

}  // namespace heddle

#endif  // HEDDLE_THREAD_POOL_H_
