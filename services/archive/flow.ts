/**
 * Runs `fn` on each item, up to `limit` at a time, and yields the results in the items' order. The source is read only as results
 * are taken. When something fails, or the reader stops, what is under way is waited for, the source is closed, and nothing begins anew.
 */
export async function* mapInOrder<A, B>(
  source: AsyncIterable<A>,
  limit: number,
  fn: (item: A) => Promise<B>,
): AsyncGenerator<B> {
  const iterator = source[Symbol.asyncIterator]();
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

/** Runs `fn` on each item, up to `limit` at a time. The first failure is thrown, once what is under way has ended; then nothing begins anew. */
export async function forEach<A>(items: Iterable<A>, limit: number, fn: (item: A) => unknown): Promise<void> {
  const source = (async function* () {
    yield* items;
  })();
  for await (const _ of mapInOrder(source, limit, async (item) => fn(item)));
}

/** The same promise; a failure that is looked at later does not count as unhandled meanwhile. */
function observed<T>(promise: Promise<T>): Promise<T> {
  promise.then(undefined, () => undefined);
  return promise;
}
