import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;

/**
 * Plain requests of the JDK's HttpClient as it is by default, which offers HTTP/2 with each of them (Upgrade: h2c). Prints
 * the status and the body of each answer. Arguments: the address and the token.
 */
class JdkRequests {
    public static void main(String[] args) throws Exception {
        var client = HttpClient.newHttpClient();
        for (var body : new String[] {null, "hello from Java"}) {
            var request = HttpRequest.newBuilder(URI.create(args[0])).header("Authorization", "Bearer " + args[1]);
            var publisher = body == null ? BodyPublishers.noBody() : BodyPublishers.ofString(body);
            var answer = client.send(request.method(body == null ? "GET" : "POST", publisher).build(), BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.version() + " " + answer.body().strip());
        }
    }
}
