/** Whole lists as NDJSON, for who asks for `application/x-ndjson`: an object a line, sent no faster than the client reads. */
import type { Request, Response } from 'express';
import { write } from '../../archive/verifiedParts.ts';
import { IdleWatch } from '../../concurrency/idleWatch.ts';
import { clientOf } from '../access/apiClient.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { type Filter, parseFilter } from './filter.ts';
import { ended, query, traceOfRequest } from './requests.ts';
import { Shares } from './shares.ts';

const ndjson = 'application/x-ndjson';
/** One write. A client must take it within gateway.clientIdleTimeoutMs. */
const writeBytes = 64 * 1024;
/** Each holds one batch of its list in memory. */
const most = 16;
const mostPerClient = 4;

/** A gateway's lists under way. */
export function listShares(): Shares {
  return new Shares({
    ...{ most, mostPerClient },
    full: `${most} lists are being sent as NDJSON: try later`,
    ownFull: `${mostPerClient} lists are being sent to this client as NDJSON: try when one has ended`,
  });
}

export function wantsLines(request: Request): boolean {
  return request.method === 'GET' && request.accepts(['application/json', ndjson]) === ndjson;
}

/**
 * Sends what `?filter=` takes of these batches. Throws what happens before the first byte; whatever goes wrong later cuts the connection, so that a list
 * that ends is whole.
 */
export async function sendLines(
  { lists, log, config }: GatewayParts,
  request: Request,
  response: Response,
  batches: AsyncIterable<object[]>,
): Promise<void> {
  const matches = parseFilter(query(request, 'filter'));
  using _share = lists.begin(clientOf(request).fingerprint);
  using idle = new IdleWatch(config.gateway.clientIdleTimeoutMs, 'the client of a list', 'client-stalled');
  const signal = AbortSignal.any([ended(response), idle.signal]);
  response.vary('accept').type(ndjson);
  try {
    for await (const batch of batches)
      for (const text of textsOf(batch, matches)) {
        idle.watch(true);
        await write(response, text, signal);
        idle.watch(false);
      }
    response.end();
  } catch (error) {
    if (!response.headersSent) throw error;
    const line = { path: request.path, trace: traceOfRequest(request).id, error };
    if (signal.aborted) log.info('list given up by its client', line);
    else log.error('list cut', line);
    response.destroy();
  }
}

/** The lines of those that match, in buffers of `writeBytes` and a little. */
function* textsOf(batch: object[], matches: Filter): Generator<Buffer> {
  let text = '';
  for (const each of batch) {
    if (!matches(each)) continue;
    text += `${JSON.stringify(each)}\n`;
    if (text.length < writeBytes) continue;
    yield Buffer.from(text);
    text = '';
  }
  if (text !== '') yield Buffer.from(text);
}
