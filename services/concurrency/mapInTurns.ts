import { setImmediate } from 'node:timers/promises';

/** Calls `fn` for each item, one at a time. Between two calls, the event loop does other work, however long all calls take together. */
export async function mapInTurns<A, B>(items: Iterable<A>, fn: (item: A) => B | Promise<B>): Promise<B[]> {
  const mapped: B[] = [];
  for (const item of items) {
    mapped.push(await fn(item));
    await setImmediate();
  }
  return mapped;
}
