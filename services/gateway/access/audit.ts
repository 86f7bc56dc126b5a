/**
 * The gateway's part of the audit log: a log line for each call that changes something, each call that is refused, each download of an archive, and each request
 * over NATS, at whatever level the log is.
 */
import type { Msg } from '@nats-io/transport-node';
import type { RequestHandler, Response } from 'express';
import type { Log } from '../../telemetry/logger.ts';
import type { Trace } from '../../telemetry/trace.ts';
import type { Client } from './apiClient.ts';

const refusals = [401, 403, 429];

/** Writes the line when the answer is sent, or the client has disconnected. */
export function audited(log: Log): RequestHandler {
  return (request, response, next) => {
    // Read these now, because routers shorten the path while they handle the request.
    const { method, path, query } = request;
    const reading = ['GET', 'HEAD', 'OPTIONS'].includes(method);
    const address = request.socket.remoteAddress ?? '';
    let written = false;
    const write = (status: number, result: string) => {
      const { client, audit, trace } = response.locals as Locals;
      // A call that only reads is logged only if its route has added a note.
      if (written || (reading && !audit && !refusals.includes(status))) return;
      written = true;
      const location = response.get('location');
      log.info('audit', {
        requestor: requestorOf(client, address),
        method,
        path,
        ...(typeof query.project === 'string' && { project: query.project }),
        status,
        result,
        trace: trace.id,
        ...(location !== undefined && { location }),
        ...audit,
      });
    };
    response.once('finish', () => write(response.statusCode, resultOf(response.statusCode)));
    response.once('close', () => write(response.statusCode, 'cut'));
    next();
  };
}

/** Writes the line of a request over NATS. */
export function auditOverNats(log: Log, asked: { message: Msg; trace: Trace; status: number; body: object }): void {
  const { message, trace, status, body } = asked;
  const { subject, reply: address = '' } = message;
  const { account, user } = userOf(message);
  log.info('audit', {
    requestor: { username: user, ...(account && { account }), name: '', role: '', protocol: 'nats', address },
    subject,
    ...body,
    status,
    result: resultOf(status),
    trace: trace.id,
  });
}

/**
 * The client in another account: at each import of a service, NATS overwrites this header with the account, and with the user if the import has
 * `share: true`. Inside the gateway's own account, the header could only come from the client itself; there the inbox shows who it is.
 */
export function userOf(message: Msg): { user: string; account?: string } {
  if (!message.reply?.startsWith('_R_.')) return { user: '' };
  try {
    const { acc: account, user = '' } = JSON.parse(message.headers?.get('Nats-Request-Info') ?? '') ?? {};
    return { user, ...(account && { account }) };
  } catch {
    return { user: '' };
  }
}

/** Adds fields to a request's audit line; a call that only reads gets a line because of this. Add nothing secret. */
export function noteForAudit(response: Response, fields: Record<string, unknown>): void {
  response.locals.audit = { ...response.locals.audit, ...fields };
}

interface Locals {
  client?: Client;
  trace: Trace;
  audit?: Record<string, unknown>;
}

function requestorOf(client: Client | undefined, address: string): object {
  return {
    username: client?.fingerprint ?? '',
    name: client?.name ?? '',
    role: client?.trusted ? client.role : 'untrusted',
    protocol: 'tls',
    address,
  };
}

function resultOf(status: number): string {
  if (refusals.includes(status)) return 'refused';
  return status < 400 ? 'done' : 'failed';
}
