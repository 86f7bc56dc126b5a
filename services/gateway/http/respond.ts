/** LXD's envelopes, and the one place where an error becomes an answer. */
import { createHash } from 'node:crypto';
import { gzip } from 'node:zlib';
import type { ErrorRequestHandler, Request, RequestHandler, Response } from 'express';
import { asLxstowError, LxstowError } from '../../contract/errors.ts';
import type { Operation } from '../../contract/schemas.ts';
import type { Log } from '../../telemetry/logger.ts';
import { shownOperation } from '../views/operationView.ts';
import type { Absences } from './absences.ts';

/** Shorter answers fit into one packet without gzip. */
const worthPackingBytes = 1400;

/** A sync answer. `versioned`: the values from which LXD computes the ETag. */
export function sync(response: Response, metadata: unknown = {}, versioned?: unknown[]): void {
  if (versioned) response.set('etag', `"${createHash('sha256').update(JSON.stringify(versioned)).digest('hex')}"`);
  send(response, 200, success(metadata));
}

/** A sync answer to a request that created something: 201, with its path in `Location`. */
export function created(response: Response, path: string): void {
  send(response.location(path), 201, success(null));
}

/** An async answer: 202, the operation's path in `Location` and `operation`, the operation and `more` in the metadata. */
export function accepted(response: Response, operation: Operation, more: object = {}): void {
  started(response, operation.id, { ...shownOperation(operation), ...more });
}

/** The same for an operation as LXD shows it. */
export function started(response: Response, id: string, metadata: object): void {
  const path = operationPath(id);
  send(response.location(path), 202, {
    type: 'async',
    status: 'Operation created',
    status_code: 100,
    operation: path,
    error_code: 0,
    error: '',
    metadata,
  });
}

/** Adds a warning to an answer, which `lxstow` prints. It must be added before the answer. */
export function warn(response: Response, text: string): void {
  response.append('warning', `199 lxstow "${text.replaceAll(/[^\x20-\x7e]|["\\]/g, "'")}"`);
}

function success(metadata: unknown): object {
  return { type: 'sync', status: 'Success', status_code: 200, operation: '', error_code: 0, error: '', metadata };
}

export function errorEnvelope(status: number, error: string): object {
  return { type: 'error', status: '', status_code: 0, operation: '', error_code: status, error, metadata: null };
}

/** Sends JSON, with gzip for clients that accept it. */
function send(response: Response, status: number, body: object): void {
  const text = Buffer.from(JSON.stringify(body));
  response.status(status).type('json').vary('accept-encoding');
  if (text.length < worthPackingBytes || !response.req.acceptsEncodings('gzip')) return void response.send(text);
  gzip(text, (error, packed) => {
    if (error) response.send(text);
    else response.set('content-encoding', 'gzip').send(packed);
  });
}

export function operationPath(id: string): string {
  return `/1.0/operations/${id}`;
}

/** The error with which an operation failed. */
export function errorOf(operation: Operation): LxstowError {
  return new LxstowError(
    (operation.error_code ?? 'internal') as LxstowError['code'],
    operation.err || `operation ${operation.id} is ${operation.status}`,
  );
}

/** Answers with LXD's error envelope. An unexpected error is logged with its stack; the client gets no details. */
export function respondToErrors(log: Log, absences: Absences): ErrorRequestHandler {
  return async (thrown, request, response, next) => {
    if (response.headersSent) return next(thrown);
    const error = await absences.explain(fromExpress(thrown) ?? asLxstowError(thrown), request.method !== 'GET');
    if (response.headersSent) return next(thrown);
    const line = {
      method: request.method,
      path: request.path,
      status: error.status,
      trace: response.locals.trace?.id,
      error: error.code === 'internal' ? thrown : error,
    };
    if (error.status >= 500) log.error('request failed', line);
    else log.info('request refused', line);
    const text = error.code === 'internal' ? 'internal error; the gateway has logged its cause' : error.message;
    const envelope = errorEnvelope(error.status, text);
    if (request.complete) send(response, error.status, envelope);
    else refuseAmidst(request, response.status(error.status), JSON.stringify(envelope));
  };
}

/** How long a client that has its answer may continue to send. */
const lingerMs = 5000;

/**
 * Answers a client that is still sending. Closing the connection at once would reset it, and the client would lose the answer. So the answer is sent completely, and what
 * still arrives is discarded for `lingerMs`.
 */
function refuseAmidst(request: Request, response: Response, text: string): void {
  response.type('application/json').set('content-length', String(Buffer.byteLength(text)));
  const timer = setTimeout(() => response.end(() => request.destroy()), lingerMs);
  request.once('close', () => clearTimeout(timer));
  request.once('end', () => response.end());
  response.write(text);
  request.resume();
}

/** Closes the connection of a client that still sends its request's body `lingerMs` after the answer: nothing else limits that time. */
export const bodyEndsSoon: RequestHandler = (request, response, next) => {
  response.once('finish', () => {
    if (request.complete) return;
    const timer = setTimeout(() => request.destroy(), lingerMs);
    request.once('close', () => clearTimeout(timer));
  });
  next();
};

/** Translates errors of Express and its body parser, by their `status`. */
function fromExpress(thrown: unknown): LxstowError | undefined {
  if (thrown instanceof LxstowError || !(thrown instanceof Error) || !('status' in thrown)) return undefined;
  const { status, message } = thrown;
  if (status === 413) {
    const { limit } = thrown as { limit?: number };
    const said = `the body is larger than ${limit} bytes; for trusted clients gateway.bodyLimitBytes is the limit`;
    return new LxstowError('too-large', said, { cause: thrown });
  }
  if (thrown instanceof URIError)
    return new LxstowError('bad-request', 'the path is not URL-encoded UTF-8', { cause: thrown });
  if (thrown instanceof SyntaxError)
    return new LxstowError('bad-request', `the body is not JSON: ${message}`, { cause: thrown });
  if (typeof status === 'number' && status >= 400 && status < 500)
    return new LxstowError('bad-request', message, { cause: thrown });
  return undefined;
}
