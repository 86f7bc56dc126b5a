/** Sends tags only to stores that support them. Otherwise, tags are only in the manifest, from which lxstow always reads them. */
import type { Tags } from '../contract/schemas.ts';
import type { ObjectStore } from './objectStore.ts';
import { isUnsupported } from './s3/s3Refusals.ts';

type Tagging = Pick<ObjectStore, 'beginUpload' | 'create' | 'replace' | 'tag' | 'tagsOf'>;

/** Wraps the calls that send or read tags. If a store refuses a request with tags but accepts it without, no further tags are sent. */
export function tagsIfAny<S extends Tagging>(store: S): S {
  let hasTags = true;

  async function tagged<T>(tags: Tags, run: (tags: Tags) => Promise<T>): Promise<T> {
    if (!hasTags) return run({});
    try {
      return await run(tags);
    } catch (error) {
      if (Object.keys(tags).length === 0 || !isUnsupported(error)) throw error;
      const result = await run({});
      hasTags = false;
      return result;
    }
  }

  async function unlessUnsupported<T>(call: Promise<T>, instead: T): Promise<T> {
    try {
      return await call;
    } catch (error) {
      if (!isUnsupported(error)) throw error;
      return instead;
    }
  }

  return {
    ...store,
    beginUpload: (key, options, signal) =>
      tagged(options.tags, (tags) => store.beginUpload(key, { ...options, tags }, signal)),
    create: (key, body, options, signal) =>
      tagged(options.tags ?? {}, (tags) => store.create(key, body, { ...options, tags }, signal)),
    replace: (key, etag, body, options, signal) =>
      tagged(options.tags, (tags) => store.replace(key, etag, body, { ...options, tags }, signal)),
    tag: (key, tags, signal) => unlessUnsupported(store.tag(key, tags, signal), undefined),
    tagsOf: (key, signal) => unlessUnsupported(store.tagsOf(key, signal), {}),
  };
}
