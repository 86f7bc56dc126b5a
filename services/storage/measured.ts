/** Metrics as a wrapper of the store: each call's duration, result and bytes. */
import { asLxstowError } from '../contract/errors.ts';
import type { StoreMetrics } from '../telemetry/metrics.ts';
import type { ObjectStore } from './objectStore.ts';
import { type StoreCall, wrapped } from './wrapped.ts';

/** Wraps the store to measure every call. Put it inside `retrying`, so that each try counts. */
export function measured(store: ObjectStore, { s3Requests, received, sent }: StoreMetrics): ObjectStore {
  function count(call: StoreCall, args: readonly unknown[], result: unknown): void {
    const body = args.find((arg) => Buffer.isBuffer(arg));
    if (call === 'read') received.inc({ peer: 's3' }, (result as Awaited<ReturnType<ObjectStore['read']>>).body.length);
    else if (body) (call === 'readRange' ? received : sent).inc({ peer: 's3' }, body.length);
  }

  return wrapped(store, {
    async call(call, args, run) {
      const end = s3Requests.startTimer({ call });
      try {
        const result = await run();
        end({ result: 'ok' });
        count(call, args, result);
        return result;
      } catch (error) {
        end({ result: asLxstowError(error).code });
        throw error;
      }
    },

    /** Counts a listing as one call: the time that its pages took, without the consumer's time between items. */
    async *listing(call, _args, open) {
      let seconds = 0;
      let result = 'ok';
      const iterator = open()[Symbol.asyncIterator]();
      try {
        for (;;) {
          const begun = performance.now();
          const next = await iterator.next().finally(() => {
            seconds += (performance.now() - begun) / 1000;
          });
          if (next.done) return;
          yield next.value;
        }
      } catch (error) {
        result = asLxstowError(error).code;
        throw error;
      } finally {
        s3Requests.observe({ call, result }, seconds);
        await iterator.return?.();
      }
    },
  });
}
