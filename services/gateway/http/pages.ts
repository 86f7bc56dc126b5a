/** Pages of lists: `?limit=` entries after the cursor `?after=`. */
import type { Request, Response } from 'express';
import { LxstowError } from '../../contract/errors.ts';
import { query } from './requests.ts';

/** Without a limit: all. Throws bad-request for a limit that is not a number from 1 to `most`. */
export function pageOf(request: Request, most = 1000): { limit: number | undefined; after: string | undefined } {
  const text = query(request, 'limit');
  const limit = text === undefined ? undefined : Number(text);
  if (limit !== undefined && !(Number.isInteger(limit) && limit >= 1 && limit <= most))
    throw new LxstowError('bad-request', `?limit=${text} is not a number from 1 to ${most}`);
  return { limit, after: query(request, 'after') };
}

/** Says in the header `Link` where the next page is. Without a cursor, there is none. */
export function linkNext(request: Request, response: Response, after: string | undefined): void {
  if (after === undefined) return;
  const { pathname } = new URL(request.originalUrl, 'https://gateway');
  const next = new URLSearchParams({ ...(request.query as Record<string, string>), after });
  response.set('link', `<${pathname}?${next}>; rel="next"`);
}
