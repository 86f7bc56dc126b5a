/** S3 as other servers have it: rules that the lab's servers do not have, in front of one of them. Each is from its documentation, or a report. */
import type { IncomingMessage } from 'node:http';
import type { Dialect } from '../fault/scriptedS3.ts';

const isPut = ({ method }: IncomingMessage) => method === 'PUT';
const query = ({ url = '' }: IncomingMessage) => new URL(url, 'http://s3').searchParams;
const checksums = ({ headers }: IncomingMessage) =>
  Object.keys(headers).filter((name) => name.startsWith('x-amz-checksum-'));

/** AWS: a bucket that locks, credentials for a prefix alone, and checksums only where an upload was begun with them. Errors come in chunks. */
export function strict(): Dialect {
  const summed = new Set<string>();
  return {
    chunkedErrors: true,
    begun(request, uploadId) {
      if (request.headers['x-amz-checksum-algorithm']) summed.add(uploadId);
    },
    refuse(request) {
      const { method, headers } = request;
      const asked = query(request);
      const isCopy = headers['x-amz-copy-source'] !== undefined;
      if (isPut(request) && !isCopy && !headers['content-md5'] && checksums(request).length === 0) {
        const message =
          'Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters';
        return { status: 400, code: 'InvalidRequest', message };
      }
      const uploadId = asked.get('uploadId');
      if (isPut(request) && uploadId && checksums(request).length > 0 && !summed.has(uploadId)) {
        const message = 'Checksum Type mismatch occurred, expected checksum Type: null, actual checksum Type: crc32';
        return { status: 400, code: 'InvalidRequest', message };
      }
      const lists = method === 'GET' && (asked.has('list-type') || asked.has('uploads'));
      if (lists && !asked.get('prefix')) return { status: 403, code: 'AccessDenied', message: 'Access Denied' };
      return undefined;
    },
  };
}

/** Cloudflare R2 has no tags; Backblaze B2 takes no checksums in headers. */
export function poor(): Dialect {
  return {
    refuse(request) {
      if (request.headers['x-amz-tagging'] !== undefined || query(request).has('tagging'))
        return { status: 501, code: 'NotImplemented', message: 'Tagging is not implemented' };
      const [header] = checksums(request);
      if (header === undefined) return undefined;
      const message = `Unsupported header '${header}' received for this API call.`;
      return { status: 400, code: 'InvalidArgument', message };
    },
  };
}
