/** Wraps an object store in code that is the same around every call. */
import type { ObjectStore } from './objectStore.ts';

const calls = [
  ...(['probe', 'beginUpload', 'putPart', 'completeUpload', 'copyPart', 'listParts', 'abortUpload'] as const),
  ...(['create', 'replace', 'tag', 'tagsOf', 'read', 'stat', 'readRange', 'remove', 'flush', 'hold'] as const),
];
const listings = ['list', 'folders', 'listUploads'] as const;

export type StoreCall = (typeof calls)[number];
export type StoreListing = (typeof listings)[number];

interface Wrapper {
  /** Around a call with these arguments; `run` makes it, and may be called again. */
  call(name: StoreCall, args: readonly unknown[], run: () => Promise<unknown>): Promise<unknown>;
  /** Around a listing; `open` begins one, with these arguments unless others are given. */
  listing(
    name: StoreListing,
    args: readonly unknown[],
    open: (...others: unknown[]) => AsyncIterable<unknown>,
  ): AsyncIterable<unknown>;
}

export function wrapped(store: ObjectStore, wrapper: Wrapper): ObjectStore {
  const inner = store as unknown as Record<string, (...args: unknown[]) => never>;
  const through =
    (wrap: (name: never, args: unknown[], run: (...others: unknown[]) => never) => unknown) => (name: string) => [
      name,
      (...args: unknown[]) =>
        wrap(name as never, args, (...others) => inner[name]?.(...(others.length > 0 ? others : args)) as never),
    ];
  return Object.fromEntries([...calls.map(through(wrapper.call)), ...listings.map(through(wrapper.listing))]);
}

/** The signal among a call's arguments. */
export function signalOf(args: readonly unknown[]): AbortSignal {
  return args.find((arg) => arg instanceof AbortSignal) as AbortSignal;
}
