/** Sends whole lists as NDJSON to clients that ask for `application/x-ndjson`: one object per line, no faster than the client reads. */
import type { Request, Response } from 'express';
import { write } from '../../archive/verifiedParts.ts';
import { IdleWatch } from '../../concurrency/idleWatch.ts';
import { clientOf } from '../access/apiClient.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { listFilter } from './filter.ts';
import { ended, query, traceOfRequest } from './requests.ts';
import { Shares } from './shares.ts';

const ndjson = 'application/x-ndjson';
/** Bytes of one write. A client must read it within gateway.clientIdleTimeoutMs. */
const writeBytes = 64 * 1024;
/** Lists sent at a time; each holds one batch in memory. */
const most = 16;
const mostPerClient = 4;

/** Limits the lists that a gateway sends at a time. */
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
 * Sends the objects of these batches that match `?filter=`. Throws if anything goes wrong before the first byte; later, it cuts the connection, so that a list
 * that ends properly is complete.
 */
export async function sendLines(
  { lists, log, config }: GatewayParts,
  request: Request,
  response: Response,
  batches: AsyncIterable<object[]>,
): Promise<void> {
  const matching = listFilter(query(request, 'filter'));
  using _share = lists.begin(clientOf(request).fingerprint);
  using idle = new IdleWatch(config.gateway.clientIdleTimeoutMs, 'the client of a list', 'client-stalled');
  const signal = AbortSignal.any([ended(response), idle.signal]);
  response.vary('accept').type(ndjson);
  try {
    for await (const batch of batches)
      for (const text of textsOf(await matching(batch))) {
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

/** The lines of the objects, in buffers slightly larger than `writeBytes`. */
function* textsOf(objects: object[]): Generator<Buffer> {
  let text = '';
  for (const each of objects) {
    text += `${JSON.stringify(each)}\n`;
    if (text.length < writeBytes) continue;
    yield Buffer.from(text);
    text = '';
  }
  if (text !== '') yield Buffer.from(text);
}
