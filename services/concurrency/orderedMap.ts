/**
 * Runs `fn` on each item, up to `limit` in parallel, and yields the results in the items' order. Reads the source only as results are
 * consumed. On a failure, or when the consumer stops, starts nothing more, waits for the running calls, and closes the source.
 */
export async function* mapInOrder<A, B>(
  source: AsyncIterable<A> | Iterable<A>,
  limit: number,
  fn: (item: A) => Promise<B>,
): AsyncGenerator<B> {
  const iterator = Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]();
  const running: Promise<B>[] = [];
  try {
    for (let ended = false; ; ) {
      while (!ended && running.length < limit) {
        const next = await iterator.next();
        if (next.done) ended = true;
        else running.push(observed(fn(next.value)));
      }
      const first = running.shift();
      if (!first) return;
      yield await first;
    }
  } finally {
    await Promise.allSettled(running);
    await iterator.return?.();
  }
}

/** Runs `fn` on each item, up to `limit` in parallel. Throws the first failure once the running calls have ended, and starts no more. */
export async function forEach<A>(
  items: AsyncIterable<A> | Iterable<A>,
  limit: number,
  fn: (item: A) => unknown,
): Promise<void> {
  for await (const _ of mapInOrder(items, limit, async (item) => fn(item)));
}

/** Returns the same promise, marked as handled: its failure may be awaited later. */
function observed<T>(promise: Promise<T>): Promise<T> {
  promise.then(undefined, () => undefined);
  return promise;
}
