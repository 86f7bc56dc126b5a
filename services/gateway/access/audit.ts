/**
 * The gateway's part of the audit trail: a log line for each call that changes something, each that is refused, each by which a whole archive goes out, and each request
 * over NATS, at whatever level the log is.
 */
import type { Msg } from '@nats-io/transport-node';
import type { RequestHandler, Response } from 'express';
import type { ScheduleBody } from '../../contract/schemas.ts';
import { withoutSecrets } from '../../runs/selector.ts';
import type { Log } from '../../telemetry/logger.ts';
import type { Trace } from '../../telemetry/trace.ts';
import type { Client } from './apiClient.ts';

const refusals = [401, 403, 429];

/** Writes the line when the answer is out, or the client is gone. */
export function audited(log: Log): RequestHandler {
  return (request, response, next) => {
    // Routers shorten the path while they are at it.
    const { method, path, query } = request;
    const reading = ['GET', 'HEAD', 'OPTIONS'].includes(method);
    const address = request.socket.remoteAddress ?? '';
    let written = false;
    const write = (status: number, result: string) => {
      const { client, audit, trace } = response.locals as Locals;
      // A call that reads has a note where it is one that counts.
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
 * Who asks from another account: NATS writes this header over the asker's own at each import of a service, with the user where the import has
 * `share: true`. Inside the gateway's account nobody but the asker could have written it; the inbox says who asks there.
 */
export function userOf({ reply = '', headers }: Msg): { user: string; account?: string } {
  if (!reply.startsWith('_R_.')) return { user: '' };
  try {
    const { acc: account, user = '' } = JSON.parse(headers?.get('Nats-Request-Info') ?? '') ?? {};
    return { user, ...(account && { account }) };
  } catch {
    return { user: '' };
  }
}

/** Adds to a request's line, and has one written for a call that only reads. Nothing secret. */
export function noteForAudit(response: Response, fields: Record<string, unknown>): void {
  response.locals.audit = { ...response.locals.audit, ...fields };
}

/** Of a run or schedule: what it backs up, and by which rule it deletes. */
export function choiceOf({ selector, keep }: Pick<ScheduleBody, 'selector' | 'keep'>): Record<string, unknown> {
  return { ...(selector && { selector: withoutSecrets(selector) }), ...(keep && { keep }) };
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
