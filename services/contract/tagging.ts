/** Tags in the header `x-amz-tagging`, as S3 writes them. */
import { LxstowError } from './errors.ts';
import { check, type Tags } from './schemas.ts';

/**
 * Parses `x-amz-tagging` as S3 does: URL-encoded `key=value&k2=v2`.
 * Throws bad-request for a duplicate key, and for tags that do not match their schema.
 */
export function parseTagging(header: string): Tags {
  const tags: Tags = Object.create(null);
  for (const pair of header.split('&')) {
    if (pair === '') continue;
    const cut = pair.includes('=') ? pair.indexOf('=') : pair.length;
    const [key, value] = [pair.slice(0, cut), pair.slice(cut + 1)].map(decodeTag) as [string, string];
    if (key in tags) throw new LxstowError('bad-request', `x-amz-tagging: duplicate key ${JSON.stringify(key)}`);
    tags[key] = value;
  }
  return check('names.json#/$defs/tags', { ...tags }, 'x-amz-tagging');
}

function decodeTag(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '));
  } catch (cause) {
    throw new LxstowError('bad-request', `x-amz-tagging: ${JSON.stringify(text)} is not URL-encoded`, { cause });
  }
}

/** Formats tags as the `x-amz-tagging` header. */
export function formatTagging(tags: Tags): string {
  return Object.entries(tags)
    .map(([key, value]) => `${encodeURIComponent(key)}=${encodeURIComponent(value)}`)
    .join('&');
}
