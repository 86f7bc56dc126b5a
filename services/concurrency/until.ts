import { addAbortListener } from 'node:events';

/** Returns the result of `promise`, unless the signal aborts first: not every call takes a signal. */
export async function until<T>(signal: AbortSignal, promise: Promise<T>): Promise<T> {
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  using _listener = addAbortListener(signal, () => reject(signal.reason));
  return await Promise.race([promise, aborted]);
}
