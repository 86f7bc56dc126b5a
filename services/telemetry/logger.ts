/** Log lines are events with fields: JSON for machines, one line of text for people. */
import { Writable } from 'node:stream';
import winston from 'winston';
import type { Config } from '../contract/schemas.ts';

export type Log = winston.Logger;

/** A logger on standard error. Child loggers carry their fields: `log.child({ operation })`. */
export function createLogger(config: Config['log'], fields: Record<string, unknown>): Log {
  const forPeople = config.format === 'text' || (config.format === 'auto' && process.stderr.isTTY);
  return winston.createLogger({
    level: config.level,
    defaultMeta: fields,
    format: winston.format.combine(
      errorFields(),
      winston.format.timestamp(),
      forPeople ? winston.format.printf(inOneLine) : winston.format.json(),
    ),
    transports: [new winston.transports.Console({ stderrLevels: ['error', 'warn', 'info', 'debug'] })],
  });
}

/** The audit log: lines with `"audit":true`, whatever the log's level is. */
export function auditLog(config: Config['log'], service: 'gateway' | 'worker'): Log {
  return createLogger({ ...config, level: 'info' }, { service, audit: true });
}

/** Calls `see` with each line that is written, until disposed. */
export function onLine(log: Log, see: (line: Record<string, unknown>) => void): Disposable {
  const tap = new Writable({
    objectMode: true,
    write(line: { level: string }, _encoding, next) {
      if (log.isLevelEnabled(line.level)) see(line);
      next();
    },
  });
  log.pipe(tap);
  return { [Symbol.dispose]: () => void log.unpipe(tap) };
}

/** An `error` field becomes its message, code and causes. */
const errorFields = winston.format((info) => {
  const error = info.error;
  if (!(error instanceof Error)) return info;
  const causes: string[] = [];
  for (let cause = error.cause; cause instanceof Error; cause = cause.cause) causes.push(cause.message || cause.name);
  info.error = error.message;
  if ('code' in error) info.code = error.code;
  if (causes.length > 0) info.causes = causes;
  if (info.level === 'error' && !('repeatable' in error)) info.stack = error.stack;
  return info;
});

function inOneLine(info: winston.Logform.TransformableInfo): string {
  const { timestamp, level, message, stack, ...fields } = info;
  const words = Object.entries(fields).map(
    ([key, value]) => `${key}=${typeof value === 'string' ? quoted(value) : JSON.stringify(value)}`,
  );
  return [timestamp, level.toUpperCase().padEnd(5), message, ...words].join(' ') + (stack ? `\n${stack}` : '');
}

function quoted(text: string): string {
  return /^[^\s"=]+$/.test(text) ? text : JSON.stringify(text);
}
