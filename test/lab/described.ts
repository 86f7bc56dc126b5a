import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import formats from 'ajv-formats';
import openapi from '../../docs/openapi.json' with { type: 'json' };

interface Described {
  content?: Record<string, object>;
  $ref?: string;
}
type Call = { responses: Record<string, Described> };

export const described = openapi.paths as unknown as Record<string, Record<string, Call>>;

const ajv = new Ajv2020({ strict: false, allErrors: true, logger: false });
formats.default(ajv);
ajv.addSchema({ $id: 'openapi', ...openapi });
const validators = new Map<string, ValidateFunction>();

/** The path of docs/openapi.json that a path is one of. */
function describedPath(path: string): string | undefined {
  const [bare = ''] = path.replace(/^\/1\.0\/containers(?=[/?]|$)/, '/1.0/instances').split('?');
  return Object.keys(described).find((each) => {
    const pattern = each.replaceAll('.', '\\.').replaceAll(/{\w+}/g, '[^/]+').replace(/\/$/, '');
    return new RegExp(`^${pattern}/?$`).test(bare);
  });
}

/** Throws unless docs/openapi.json has this answer; a path or method that it has not must be refused. */
export function assertDescribed(
  method: string,
  path: string,
  { status, contentType, body }: { status: number; contentType: string; body: unknown },
): void {
  const what = `${method} ${path.slice(0, 200)}: ${status} ${contentType}`;
  const template = describedPath(path);
  const call = template === undefined ? undefined : described[template]?.[method.toLowerCase()];
  if (method === 'HEAD' || status === 304) return;
  if (!call && status < 400) throw new Error(`${what}: is not in docs/openapi.json`);
  const pointer = call
    ? `#/paths/${escaped(template ?? '')}/${method.toLowerCase()}/responses/${key(call, status)}`
    : '#/components/responses/refusal';
  const found = at(pointer);
  const target = found?.$ref ?? pointer;
  const media = contentType.split(';')[0] ?? '';
  const content = (found?.$ref ? at(found.$ref) : found)?.content;
  if (!content) throw new Error(`${what}: is not in docs/openapi.json`);
  if (!content[media]) throw new Error(`${what}: docs/openapi.json says ${Object.keys(content).join(', ')}`);
  if (media !== 'application/json') return;
  const schema = `openapi${target}/content/application~1json/schema`;
  const validate = validators.get(schema) ?? ajv.compile({ $ref: schema });
  validators.set(schema, validate);
  if (validate(body)) return;
  const faults = (validate.errors ?? [])
    .slice(0, 10)
    .map(({ instancePath, message, params }) => [instancePath, message, JSON.stringify(params)].join(' '));
  throw new Error(`${what}: not as in docs/openapi.json: ${faults.join('; ')}\n${JSON.stringify(body).slice(0, 2000)}`);
}

function key({ responses }: Call, status: number): string {
  return String(status) in responses ? String(status) : `${Math.floor(status / 100)}XX`;
}

function escaped(word: string): string {
  return encodeURIComponent(word.replaceAll('~', '~0').replaceAll('/', '~1'));
}

function at(pointer: string): Described | undefined {
  let found: unknown = openapi;
  for (const word of pointer.slice(2).split('/'))
    found = (found as Record<string, unknown> | undefined)?.[
      decodeURIComponent(word).replaceAll('~1', '/').replaceAll('~0', '~')
    ];
  return found as Described | undefined;
}
